import numpy as np
import pytest
from visits_of_phantoms import write_visit

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.dataset.registration import RigidTransform
from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.patient import visits


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two visits in one position; the only lesion doubles its diameter."""
    found = RigidTransform(np.eye(4), 0.5, 0.6)
    monkeypatch.setattr(visits, "register_rigid", lambda *_: found)
    brain = np.zeros((30, 30, 20), dtype=np.float32)
    brain[3:-3, 3:-3, 3:-3] = 5
    brain[8, 8, 8] = 6
    paths = []
    for side in (6, 12):
        mask = np.zeros(brain.shape, dtype=bool)
        mask[6 : 6 + side, 6 : 6 + side, 5 : 5 + side] = True
        paths.append(str(write_visit(tmp_path / f"visit{side}", Volume(brain, np.eye(4)), mask)))
    return paths


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["follow", *map(str, arguments)])
    return ended.value.code or 0


def test_follow_prints_what_changed_and_the_rule(folders, tmp_path, capsys):
    assert run(*folders, "-o", tmp_path / "change") == 0
    printed = capsys.readouterr().out
    assert "visit 2: 1 grown; RANO-BM non-CR/non-PD (no target lesions)" in printed
    assert "Lin et al., Lancet Oncol 2015" in printed
    names = {path.name for path in (tmp_path / "change").glob("changes.*")}
    assert names == {f"changes.{suffix}" for suffix in ("csv", "json", "md", "png")}


def test_follow_passes_its_options_on(folders, tmp_path, capsys):
    assert run(*folders, "--smallest-change", 9, "--same-patient", "-o", tmp_path / "change") == 0
    assert "visit 2: 1 stable" in capsys.readouterr().out


def test_bad_folder_ends_with_status_2_and_one_line_and_writes_nothing(folders, tmp_path, capsys):
    assert run(folders[0], tmp_path / "absent", "-o", tmp_path / "change") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "absent/run.json: cannot be read" in line]
    assert not (tmp_path / "change").exists()
