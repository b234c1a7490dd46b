import json
import shutil

import numpy as np
import pytest
import torch

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.exported import FILE_NAME, open_exported, read_export
from sgnet_nnunet.inference.predictor import Predictor
from sgnet_nnunet.inference.runtimes import import_openvino
from sgnet_nnunet.inference.torch_engines import stage_models


@pytest.fixture(scope="module")
def written(make_network, write_export, tmp_path_factory):
    networks = {"0": make_network(seed=0), "1": make_network(seed=1)}
    return write_export(tmp_path_factory.mktemp("exported"), networks, mirroring_axes=[0, 2])


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "exported")


@pytest.mark.slow
def test_opened_engine_gives_the_networks_logits(folder, make_network, rng, smooth_image, dense_logits):
    image = smooth_image(rng, (20, 24, 40))
    expected = dense_logits(make_network(seed=1), image)
    np.testing.assert_allclose(open_exported(folder, folds=("1",)).logits(image), expected, atol=1e-3)
    mean = (expected + dense_logits(make_network(seed=0), image)) / 2
    np.testing.assert_allclose(open_exported(folder).logits(image), mean, atol=1e-3)


def test_engine_is_sparse_unless_whole_is_wanted(folder):
    assert open_exported(folder, folds=("0",)).engine.skip
    assert not open_exported(folder, folds=("0",), engine="whole").engine.skip


def test_fold_that_is_not_there_is_named(folder):
    with pytest.raises(InputFileError, match="has no fold 3; it has 0, 1"):
        open_exported(folder, folds=("3",))


def test_file_that_was_changed_or_moved_since_the_export_is_refused(exported_model, tmp_path, rng):
    every = {p.relative_to(exported_model).as_posix() for p in exported_model.rglob("*") if p.is_file()}
    names = sorted(read_export(exported_model).files_sha256)
    assert set(names) == every - {FILE_NAME}
    for index, name in enumerate(names):
        folder = shutil.copytree(exported_model, tmp_path / str(index))
        content = bytearray((folder / name).read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (folder / name).write_bytes(content)
        with pytest.raises(InputFileError, match=rf"{name}: is not the file that sgnet export wrote"):
            _ = Predictor.open([folder]).models[0].engine


def test_description_that_was_changed_since_the_export_is_refused(exported_model, tmp_path):
    folder = shutil.copytree(exported_model, tmp_path / "model")
    content = json.loads((folder / FILE_NAME).read_text())
    content["folds"]["0"]["gates"][0]["score_threshold"] += 0.5
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(InputFileError, match=r"export\.json: is not as sgnet export wrote it"):
        read_export(folder)


@pytest.mark.slow
def test_weights_of_an_old_export_that_are_no_numbers_are_refused(folder, make_network, rng, smooth_image):
    network = make_network(seed=0)
    network.head.bias.data[0] = torch.nan
    wrong = stage_models(network)["up0"]
    import_openvino().save_model(wrong, str(folder / "fold_0/up0.xml"), compress_to_fp16=False)
    with pytest.raises(InputFileError, match=r"up0\.xml: holds weights that are not finite"):
        open_exported(folder, folds=("0",), engine="whole").logits(smooth_image(rng, (8, 8, 8)))


def test_missing_stage_is_named(folder):
    (folder / "fold_0" / "up1.xml").unlink()
    with pytest.raises(InputFileError, match=r"fold_0: lacks up1\.xml; write it again with sgnet export"):
        open_exported(folder, folds=("0",))


def test_damaged_stage_is_named(folder, rng, smooth_image):
    (folder / "fold_0" / "deep.xml").write_text("<net")
    with pytest.raises(InputFileError, match=r"deep\.xml: cannot be opened by OpenVINO"):
        open_exported(folder, folds=("0",)).logits(smooth_image(rng, (8, 8, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "{", "is not JSON"),
        (lambda _: json.dumps({}), "is not a file of sgnet export"),
        (lambda content: json.dumps(content | {"version": 9}), "has version 9, not 1"),
        (
            lambda content: json.dumps({**content, "mirroring_axes": None}),
            r"\$\.mirroring_axes: expected array, got None",
        ),
        (
            lambda content: json.dumps(content | {"folds": {"0": {"channels": 2}}}),
            r"\$\.folds.*: object missing required",
        ),
    ],
    ids=["no JSON", "another file", "another version", "no axes", "no geometry"],
)
def test_description_that_cannot_be_used_is_told(folder, change, message):
    path = folder / FILE_NAME
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputFileError, match=message):
        read_export(folder)


def test_geometry_of_version_0_1_0_is_read(folder):
    path = folder / FILE_NAME
    path.write_text(path.read_text().replace('"bypassed"', '"held_open"'))
    assert read_export(folder).folds["0"].gates[0].bypassed is False


def test_ungated_network_is_not_opened_sparsely(folder, make_network):
    content = json.loads((folder / FILE_NAME).read_text())
    content["folds"]["0"]["gates"][1] = None
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(SGNetError, match="no nested hard spatial gate"):
        open_exported(folder, folds=("0",), engine="sparse")
