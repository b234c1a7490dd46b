"""A folder predicted by a made-up network, against nnU-Net's preprocessing and export of its logits."""

import inspect
import json
import pickle
import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.operating_point import OperatingPoint
from sgnet_nnunet.inference import predictor as pipeline
from sgnet_nnunet.inference.predictor import Options, predict_folder

BESIDE = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}


class Brightness:
    """A network for which bright voxels are foreground, and brighter ones of a higher label."""

    channels = 2

    def __init__(self, heads=2, *, has_regions=False):
        self.heads = heads
        self.slopes = np.arange(heads) + has_regions

    def logits(self, image):
        return np.stack([6 * slope * (image[0] - 0.6 - 0.05 * slope) for slope in self.slopes])


@pytest.fixture
def images(make_case, turned, tmp_path):
    make_case("a")
    make_case("b", affine=turned, seed=1)
    make_case("c", affine=np.diag([-1.1, 0.7, 2, 1]), seed=2)
    return tmp_path / "images"


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_files_are_those_of_nnunet(make_plan, kind, images, tmp_path):
    plan, manager = make_plan(dataset=kind)
    engine = Brightness(plan.labels.heads, has_regions=plan.labels.has_regions)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    options = Options(save_probabilities=True)
    assert predict_folder(images, ours, plan=plan, open_engine=lambda: engine, options=options) == 3
    configuration = manager.get_configuration("3d_fullres")
    for name in "abc":
        files = [str(images / f"{name}_{channel:04d}.nii.gz") for channel in range(2)]
        image, _, properties = configuration.preprocessor_class(verbose=False).run_case(
            files, None, manager, configuration, plan.dataset
        )
        logits = engine.logits(np.asarray(image))
        export_prediction_from_logits(
            logits, properties, configuration, manager, plan.dataset, str(theirs / name), True, 1
        )
        mask, expected = (nib.load(folder / f"{name}.nii.gz") for folder in (ours, theirs))
        assert mask.header == expected.header
        np.testing.assert_array_equal(mask.affine, expected.affine)
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(expected.dataobj))
        assert set(np.unique(mask.dataobj)) == {0, *plan.labels.foreground_labels}
        mine, its = (np.load(folder / f"{name}.npz")["probabilities"] for folder in (ours, theirs))
        np.testing.assert_allclose(mine, its, atol=2e-6)
        mine, its = (pickle.loads((folder / f"{name}.pkl").read_bytes()) for folder in (ours, theirs))
        assert str(mine) == str(its)
    assert names_in(ours) == names_in(theirs) | BESIDE
    assert json.loads((ours / "plans.json").read_text()) == plan.plans
    assert json.loads((ours / "dataset.json").read_text()) == plan.dataset
    arguments = json.loads((ours / "predict_from_raw_data_args.json").read_text())
    assert set(arguments) == set(inspect.signature(nnUNetPredictor.predict_from_files).parameters) - {"self"}


def test_masks_are_cut_at_the_point(make_plan, images, tmp_path):
    plan, _ = make_plan()
    sizes = []
    for threshold in (0.2, 0.5, 0.8):
        point = OperatingPoint(threshold=threshold, min_lesion_volume_mm3=0)
        predict_folder(images, tmp_path / "out", plan=plan, open_engine=Brightness, point=point)
        sizes.append(np.count_nonzero(nib.load(tmp_path / "out/b.nii.gz").dataobj))
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_parts_share_the_cases(make_plan, images, tmp_path):
    plan, _ = make_plan()
    for part, names in enumerate([{"a", "c"}, {"b"}, set()]):
        out = tmp_path / f"part{part}"
        options = Options(num_parts=2, part_id=part) if part < 2 else Options(num_parts=9, part_id=8)
        started, done = [], []
        count = predict_folder(
            images,
            out,
            plan=plan,
            open_engine=Brightness,
            options=options,
            on_start=started.append,
            on_done=lambda done=done: done.append(1),
        )
        assert names_in(out) - BESIDE == {f"{name}.nii.gz" for name in names}
        assert count == len(done) == started[0] == len(names)


def test_what_is_there_is_kept_when_going_on(make_plan, images, tmp_path):
    plan, _ = make_plan()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.nii.gz").write_text("kept")
    going_on = Options(continue_prediction=True)
    assert predict_folder(images, tmp_path / "out", plan=plan, open_engine=Brightness, options=going_on) == 2
    assert (tmp_path / "out/a.nii.gz").read_text() == "kept"
    both = Options(continue_prediction=True, save_probabilities=True)
    assert predict_folder(images, tmp_path / "out", plan=plan, open_engine=Brightness, options=both) == 3


def test_next_case_is_read_while_the_network_works(make_plan, images, tmp_path, monkeypatch):
    plan, _ = make_plan()
    read = threading.Semaphore(0)
    preprocess = pipeline.preprocess

    def announced(*arguments, **options):
        prepared = preprocess(*arguments, **options)
        read.release()
        return prepared

    class Waiting(Brightness):
        calls = 0

        def logits(self, image):
            self.calls += 1
            # Its own image, and the following one where there is one.
            assert all(read.acquire(timeout=10) for _ in range({1: 2, 2: 1, 3: 0}[self.calls]))
            return super().logits(image)

    monkeypatch.setattr(pipeline, "preprocess", announced)
    assert predict_folder(images, tmp_path / "out", plan=plan, open_engine=Waiting) == 3


def test_network_is_opened_while_the_first_case_is_read(make_plan, images, tmp_path, monkeypatch):
    plan, _ = make_plan()
    opened = threading.Event()
    preprocess = pipeline.preprocess

    def once_opened(*arguments, **options):
        assert opened.wait(timeout=10)
        return preprocess(*arguments, **options)

    def open_engine():
        opened.set()
        return Brightness()

    monkeypatch.setattr(pipeline, "preprocess", once_opened)
    assert predict_folder(images, tmp_path / "out", plan=plan, open_engine=open_engine) == 3


def test_large_case_has_the_memory_to_itself(make_plan, images, tmp_path, monkeypatch):
    plan, _ = make_plan()
    preprocess, events = pipeline.preprocess, []

    def announced(paths, *arguments, **options):
        events.append(f"read {paths[0].name[0]}")
        return preprocess(paths, *arguments, **options)

    monkeypatch.setattr(pipeline, "preprocess", announced)
    monkeypatch.setattr(pipeline, "LARGEST_BESIDE_OTHERS", 0)
    predict_folder(
        images,
        tmp_path / "out",
        plan=plan,
        open_engine=Brightness,
        on_done=lambda: events.append("written"),
    )
    assert events == ["read a", "written", "read b", "written", "read c", "written"]


def test_damaged_image_is_named_and_those_before_it_are_written(make_plan, images, tmp_path):
    plan, _ = make_plan()
    damaged = images / "b_0001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-99])
    with pytest.raises(InputFileError, match=r"b_0001\.nii\.gz: cannot be read"):
        predict_folder(images, tmp_path / "out", plan=plan, open_engine=Brightness)
    assert names_in(tmp_path / "out") - BESIDE == {"a.nii.gz"}


def test_network_of_another_plan_is_refused(make_plan, images, tmp_path):
    plan, _ = make_plan()
    with pytest.raises(SGNetError, match=r"has 2 channels and 3 heads, .* ask for 2 and 2"):
        predict_folder(images, tmp_path / "out", plan=plan, open_engine=lambda: Brightness(3))


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from sgnet_nnunet.standalone.pipeline import Options, predict_folder
from sgnet_nnunet.standalone.plan import read_plan
from sgnet_nnunet.operating_point.point import OperatingPoint

class Engine:
    channels = heads = 2
    def logits(self, image):
        return np.stack([-image[0], image[0] - 1])

model, images, output = map(Path, sys.argv[1:])
predict_folder(
    images, output, plan=read_plan(model, "3d_fullres"), open_engine=Engine,
    point=OperatingPoint(threshold=0.4, min_lesion_volume_mm3=2), options=Options(save_probabilities=True),
)
assert (output / "a.nii.gz").is_file()
print(*sorted({"torch", "pandas", "skimage"} & set(sys.modules)))
"""


def test_pytorch_is_not_imported(make_model, images, tmp_path):
    folders = [str(make_model()), str(images), str(tmp_path / "out")]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""
