"""The stages of a prediction, with an engine that needs no network; then with networks, against nnU-Net."""

import inspect
import json
import pickle
import shutil
import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference import predictor as module
from sgnet_nnunet.inference.component_rejector import Rejector, Tree
from sgnet_nnunet.inference.operating_point import (
    OperatingPoint,
    apply_operating_point,
    foreground_probability,
)
from sgnet_nnunet.inference.plan import MISSING_CHANNELS
from sgnet_nnunet.inference.predictor import (
    Model,
    PlanProcessing,
    PredictionOptions,
    Predictor,
    predict,
    refuse_options,
)
from sgnet_nnunet.lesions import find_lesions

NNUNET_FILES = {"dataset.json", "plans.json", "predict_from_raw_data_args.json"}
TILED = PredictionOptions(device="cpu", engine="tiled", step_size=1, save_probabilities=True)


class Brightness:
    """A network for which bright voxels are foreground, and brighter ones of a higher label."""

    channels = 2

    def __init__(self, heads=2, *, has_regions=False):
        self.heads = heads
        self.slopes = np.arange(heads) + has_regions

    def logits(self, image):
        return np.stack([6 * slope * (image[0] - 0.6 - 0.05 * slope) for slope in self.slopes])


@pytest.fixture
def cases(make_case, turned, tmp_path):
    make_case("a")
    make_case("b", affine=turned, seed=1)
    make_case("c", affine=np.diag([-1.1, 0.7, 2, 1]), seed=2)
    return tmp_path / "images"


@pytest.fixture
def open_predictor(make_plan, tmp_path):
    """Return a function that returns a predictor with an engine that needs no network."""

    def make(engine=None, *, plan=None, point=None, build=None, **options):
        plan = plan or make_plan()[0]
        model = Model(
            folder=tmp_path / "model",
            description=plan,
            processing=PlanProcessing(plan),
            build_engine=build or (lambda: engine or Brightness()),
            device="cpu",
            find_provenance=lambda: None,
        )
        return Predictor([model], options=PredictionOptions(**options), point=point)

    return make


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def masks_in(folder):
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


def test_files_are_those_of_nnunet(open_predictor, make_plan, kind, cases, tmp_path):
    plan, manager = make_plan(dataset=kind)
    engine = Brightness(plan.labels.heads, has_regions=plan.labels.has_regions)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    assert open_predictor(engine, plan=plan, save_probabilities=True).predict_folder(cases, ours) == 3
    configuration = manager.get_configuration("3d_fullres")
    for name in "abc":
        files = [str(cases / f"{name}_{channel:04d}.nii.gz") for channel in range(2)]
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
    assert names_in(ours) == names_in(theirs) | NNUNET_FILES
    assert json.loads((ours / "plans.json").read_text()) == plan.plans
    assert json.loads((ours / "dataset.json").read_text()) == plan.dataset
    arguments = json.loads((ours / "predict_from_raw_data_args.json").read_text())
    assert set(arguments) == set(inspect.signature(nnUNetPredictor.predict_from_files).parameters) - {"self"}


def test_probabilities_of_cases_are_those_that_are_saved(open_predictor, cases, tmp_path):
    predictor = open_predictor(save_probabilities=True)
    predictor.predict_folder(cases, tmp_path / "out")
    files, used = sorted(cases.glob("b_*")), []
    predictor.predict_cases({"b": files}, lambda *passed: used.append(passed))
    ((case, logits, properties),) = used
    probabilities = predictor.mean_probabilities(logits, properties)
    assert case == "b"
    np.testing.assert_array_equal(np.load(tmp_path / "out/b.npz")["probabilities"], probabilities)
    assert (
        probabilities.shape[1:]
        == nib.load(files[0]).as_reoriented(nib.io_orientation(nib.load(files[0]).affine)).shape[::-1]
    )
    np.testing.assert_allclose(properties[0]["spacing"], (1.1, 0.9, 2.5), rtol=1e-6)


def test_masks_are_thresholded_at_the_point(open_predictor, cases, tmp_path):
    sizes = []
    for threshold in (0.2, 0.5, 0.8):
        point = OperatingPoint(threshold=threshold)
        open_predictor(point=point).predict_folder(cases, tmp_path / "out")
        sizes.append(np.count_nonzero(masks_in(tmp_path / "out")["b.nii.gz"]))
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_rejector_removes_lesions_and_needs_its_features(open_predictor, cases, tmp_path):
    """A rejector by volume alone removes what a minimum volume removes."""
    open_predictor(point=OperatingPoint(threshold=0.5)).predict_folder(cases, tmp_path / "all")
    everything, least = masks_in(tmp_path / "all"), np.inf
    for case, mask in everything.items():
        spacing = nib.load(tmp_path / "all" / case).header.get_zooms()
        least = min(least, 0.1 + find_lesions(mask > 0, spacing=spacing).volumes_mm3.min(initial=least))
    leaves = {"left": (1, -1, -1), "right": (2, -1, -1), "value": (0, -1, 1), "nan_left": (True,) * 3}
    tree = Tree(feature=(0, -1, -1), threshold=(least, 0, 0), **leaves)
    rejector = Rejector(features=("volume_mm3",), baseline=0, trees=(tree,), min_score=0)
    by_rule = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=least)
    for name, point in (("rule", by_rule), ("score", OperatingPoint(threshold=0.5, rejector=rejector))):
        open_predictor(point=point).predict_folder(cases, tmp_path / name)
    for case, mask in masks_in(tmp_path / "score").items():
        np.testing.assert_array_equal(mask, masks_in(tmp_path / "rule")[case])
    assert any((mask != everything[case]).any() for case, mask in masks_in(tmp_path / "score").items())
    unknown = Rejector(features=("gate_score_1/64",), baseline=0, trees=(tree,), min_score=0)
    predictor = open_predictor(point=OperatingPoint(threshold=0.5, rejector=unknown))
    with pytest.raises(SGNetError, match="needs gate_score_1/64"):
        predictor.predict_folder(cases, tmp_path / "unknown")


def test_parts_share_the_cases(open_predictor, cases, tmp_path):
    for part, names in enumerate([{"a", "c"}, {"b"}, set()]):
        out, started, done = tmp_path / f"part{part}", [], []
        parts = {"num_parts": 2, "part_id": part} if part < 2 else {"num_parts": 9, "part_id": 8}
        count = open_predictor(**parts).predict_folder(
            cases, out, on_start=started.append, on_done=lambda done=done: done.append(1)
        )
        assert names_in(out) - NNUNET_FILES == {f"{name}.nii.gz" for name in names}
        assert count == len(done) == started[0] == len(names)


def test_part_that_is_not_there_is_refused():
    with pytest.raises(SGNetError, match="--part-id 2"):
        PredictionOptions(num_parts=2, part_id=2)


def test_masks_that_are_there_are_kept_on_continue(open_predictor, cases, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.nii.gz").write_text("kept")
    assert open_predictor(continue_prediction=True).predict_folder(cases, out) == 2
    assert (out / "a.nii.gz").read_text() == "kept"
    both = open_predictor(continue_prediction=True, save_probabilities=True)
    assert both.predict_folder(cases, out) == 3


def test_next_case_is_read_while_the_engine_works(open_predictor, cases, tmp_path, monkeypatch):
    read = threading.Semaphore(0)
    prepare = module.prepare

    def announced(*arguments, **options):
        prepared = prepare(*arguments, **options)
        read.release()
        return prepared

    class Waiting(Brightness):
        calls = 0

        def logits(self, image):
            self.calls += 1
            # Its own image, and the following one where there is one.
            assert all(read.acquire(timeout=120) for _ in range({1: 2, 2: 1, 3: 0}[self.calls]))
            return super().logits(image)

    monkeypatch.setattr(module, "prepare", announced)
    assert open_predictor(Waiting()).predict_folder(cases, tmp_path / "out") == 3


def test_engine_is_built_while_the_first_case_is_read(open_predictor, cases, tmp_path, monkeypatch):
    built = threading.Event()
    read_channels = module.read_channels

    def once_built(*arguments, **options):
        assert built.wait(timeout=120)
        return read_channels(*arguments, **options)

    def build():
        built.set()
        return Brightness()

    monkeypatch.setattr(module, "read_channels", once_built)
    assert open_predictor(build=build).predict_folder(cases, tmp_path / "out") == 3


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(open_predictor, cases, tmp_path, threads):
    open_predictor().predict_folder(cases, tmp_path / "expected")
    several = open_predictor(preprocessing_threads=threads, export_threads=threads)
    assert several.predict_folder(cases, tmp_path / "out") == 3
    expected = masks_in(tmp_path / "expected")
    for name, mask in masks_in(tmp_path / "out").items():
        np.testing.assert_array_equal(mask, expected[name])


def test_large_case_has_the_memory_to_itself(open_predictor, cases, tmp_path, monkeypatch):
    prepare, events = module.prepare, []

    def announced(*arguments, **options):
        events.append("read")
        return prepare(*arguments, **options)

    monkeypatch.setattr(module, "prepare", announced)
    monkeypatch.setattr(module, "MOST_BYTES_NEXT_TO_OTHERS", 0)
    open_predictor().predict_folder(cases, tmp_path / "out", on_done=lambda: events.append("written"))
    assert events == ["read", "written"] * 3


def test_damaged_image_is_named_and_earlier_cases_are_written(open_predictor, cases, tmp_path):
    damaged = cases / "b_0001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-99])
    with pytest.raises(InputFileError, match=r"b_0001\.nii\.gz: "):
        open_predictor().predict_folder(cases, tmp_path / "out")
    assert names_in(tmp_path / "out") - NNUNET_FILES == {"a.nii.gz"}


def test_mask_that_cannot_be_written_is_named(open_predictor, cases, tmp_path):
    (tmp_path / "out/a.nii.gz").mkdir(parents=True)
    with pytest.raises(InputFileError, match=r"a\.nii\.gz: is a folder"):
        open_predictor().predict_folder(cases, tmp_path / "out")


def test_folder_without_images_is_named(open_predictor, tmp_path):
    with pytest.raises(InputFileError, match=r"holds no file \*_0000\.nii\.gz"):
        open_predictor().predict_folder(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_network_of_another_plan_is_refused(open_predictor, cases, tmp_path):
    with pytest.raises(SGNetError, match=r"has 2 channels and 3 heads, .* ask for 2 and 2"):
        open_predictor(Brightness(3)).predict_folder(cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import sgnet_nnunet.cli.predict
from sgnet_nnunet.inference import predictor
from sgnet_nnunet.inference.operating_point import OperatingPoint

class Engine:
    channels = heads = 2
    def logits(self, image):
        return np.stack([-image[0], image[0] - 1])

model, images, output = map(Path, sys.argv[1:])
plan = predictor.read_plan(model, "3d_fullres")
model = predictor.Model(
    folder=model, description=plan, processing=predictor.PlanProcessing(plan), build_engine=Engine,
    device="cpu", find_provenance=lambda: None,
)
options = predictor.PredictionOptions(save_probabilities=True)
point = OperatingPoint(threshold=0.4, min_lesion_volume_mm3=2)
predictor.Predictor([model], options=options, point=point).predict_folder(images, output)
assert (output / "a.nii.gz").is_file()
heavy = {"torch", "monai", "matplotlib", "pandas", "nnunetv2.inference"}
print(*sorted(heavy & set(sys.modules)))
"""


@pytest.mark.slow
def test_neither_pytorch_nor_plots_are_imported(make_model, cases, tmp_path):
    folders = [str(make_model()), str(cases), str(tmp_path / "out")]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


# --- exported models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"checkpoint": "checkpoint_best.pth"}, "-chk"),
        ({"step_size": 0.75}, "-step_size"),
        ({"engine": "tiled"}, "--engine tiled"),
        ({"runtime": "torch"}, "--runtime torch"),
        ({"device": "cuda"}, "-device cuda"),
    ],
)
def test_options_of_trained_models_are_refused_for_exported_ones(options, flag):
    with pytest.raises(SGNetError, match=f"^{flag}: not for an exported model"):
        refuse_options(PredictionOptions(**options))


# --- trained models ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock(models, images, tmp_path_factory):
    """Return the folder of what nnU-Net itself predicts with each kind of model."""
    folders = {}
    for kind, model in models.items():
        folders[kind] = tmp_path_factory.mktemp("stock")
        predictor = nnUNetPredictor(1, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0, 1), "checkpoint_final.pth")
        predictor.predict_from_files_sequential(str(images), str(folders[kind]), save_probabilities=True)
    return folders


KINDS = pytest.mark.parametrize("trained_kind", ["labels", "regions"])


@pytest.mark.slow
@KINDS
def test_trained_model_gives_the_files_of_nnunet(models, stock, trained_kind, images, tmp_path):
    told = []
    count = predict(
        images,
        tmp_path,
        model_folders=[models[trained_kind]],
        options=TILED,
        on_start=told.append,
        on_done=lambda: told.append("case"),
    )
    assert count == 2
    assert told == [2, "case", "case"]
    expected = stock[trained_kind]
    assert names_in(tmp_path) == names_in(expected)
    for name in ("a.nii.gz", "b.nii.gz"):
        assert (tmp_path / name).read_bytes() == (expected / name).read_bytes()
    for name in ("plans.json", "dataset.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((expected / name).read_text())
    for name in ("a.npz", "b.npz"):
        ours, theirs = (np.load(folder / name)["probabilities"] for folder in (tmp_path, expected))
        # This network's logits are loud: they multiply the 1e-6 by which preprocessed images differ.
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert len(np.unique(masks_in(tmp_path)["a.nii.gz"])) > 1


@pytest.mark.slow
@KINDS
def test_mask_is_that_of_nnunets_probabilities_at_the_point(models, stock, trained_kind, images, tmp_path):
    folder = models[trained_kind]
    plans = PlansManager(json.loads((folder / "plans.json").read_text()))
    labels = plans.get_label_manager(json.loads((folder / "dataset.json").read_text()))
    saved = {name: np.load(stock[trained_kind] / f"{name}.npz")["probabilities"] for name in ("a", "b")}
    middle = float(np.quantile(foreground_probability(saved["b"], labels), 0.97))
    predictor = Predictor.open([folder], options=TILED, operating_point="none")
    predictor.point = OperatingPoint(threshold=middle, min_lesion_volume_mm3=12)
    predictor.predict_folder(images, tmp_path)
    for name, probabilities in saved.items():
        mask, properties = plans.image_reader_writer_class().read_seg(str(tmp_path / f"{name}.nii.gz"))
        spacing = tuple(properties["spacing"])
        expected = apply_operating_point(probabilities, predictor.point, labels, spacing)
        np.testing.assert_array_equal(mask[0], expected)
        image, written = nib.load(images / f"{name}_0000.nii.gz"), nib.load(tmp_path / f"{name}.nii.gz")
        np.testing.assert_allclose(written.affine, image.affine)
        assert written.shape == image.shape
    assert mask.any()
    everything = apply_operating_point(probabilities, OperatingPoint(threshold=middle), labels, spacing)
    assert (everything > 0).sum() > (mask > 0).sum()


def test_command_reaches_the_network_through_few_modules(model, images, tmp_path, monkeypatch):
    seen = set()

    def forward(convolution, image):
        # The engine may run the network's blocks in threads of its own.
        for frame in (sys._getframe(), sys._current_frames()[threading.main_thread().ident]):
            while frame := frame.f_back:
                seen.add(frame.f_globals["__name__"])
        return original(convolution, image)

    original = torch.nn.Conv3d.forward
    monkeypatch.setattr(torch.nn.Conv3d, "forward", forward)
    arguments = ["-m", str(model), "-f", "0", "--engine", "whole", "--runtime", "torch", "--num-parts", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", "-i", str(images), "-o", str(tmp_path / "out"), *arguments])
    assert not ended.value.code
    ours = {name for name in seen if name.startswith("sgnet_nnunet")}
    assert "sgnet_nnunet.inference.predictor" in ours
    # What all commands pass, cli.main and cli.console, and six more.
    assert len(ours) <= 8, sorted(ours)


def provenance_of(model, options):
    return Predictor.open([model], options=options).models[0].find_provenance()


def test_provenance_names_the_networks_and_their_weights(model, tmp_path):
    options = PredictionOptions(device="cpu", mirroring=True)
    both = provenance_of(model, options)
    assert (both.model, both.folds, both.mirroring) == (f"Dataset501_Tiny/{model.name}", ("0", "1"), True)
    one = provenance_of(model, PredictionOptions(device="cpu", folds=("1",)))
    assert (one.folds, one.mirroring) == (("1",), False)
    other = tmp_path / model.name
    shutil.copytree(model, other)
    assert provenance_of(other, options) == both
    shutil.copy(other / "fold_1/checkpoint_final.pth", other / "fold_0")
    assert provenance_of(other, options).weights_sha256 != both.weights_sha256


def test_point_of_other_weights_is_refused(model, images, tmp_path):
    point = tmp_path / "point.json"
    tuned_for = {"model": "Dataset501_Tiny/Other", "engine": "whole", "folds": ["0"], "weights_sha256": "1"}
    content = {"point": {"threshold": 0.4}, "tuned_for": tuned_for}
    point.write_text(json.dumps({"format": "sgnet operating point", "version": 2, **content}))
    with pytest.raises(InputFileError, match="was tuned with model Dataset501_Tiny/Other"):
        predict(images, tmp_path / "out", model_folders=[model], operating_point=str(point))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": ("7",)}, r"fold_7/checkpoint_final\.pth: there is no such file"),
        ({"checkpoint": "checkpoint_best.pth"}, r"holds no fold_\*/checkpoint_best\.pth"),
        ({"device": "tpu"}, "-device tpu: not available"),
    ],
)
def test_what_is_not_there_is_named(model, images, tmp_path, options, message):
    with pytest.raises(SGNetError, match=message):
        predict(images, tmp_path / "out", model_folders=[model], options=PredictionOptions(**options))
    assert not (tmp_path / "out").exists()


# --- what has no numbers, or nothing in it ------------------------------------------------------------------


@pytest.fixture(params=["whole", "sparse", "tiled", "nnU-Net's processing", "exported", "several models"])
def road(request, model, gated_model, exported_model, foreign):
    """Return a predictor on each way from images to masks."""
    torch_only = {"device": "cpu", "runtime": "torch", "folds": ("0",)}
    models, options = {
        "whole": ([model], torch_only),
        "sparse": ([gated_model], torch_only | {"engine": "sparse"}),
        "tiled": ([model], torch_only | {"engine": "tiled", "step_size": 1}),
        "nnU-Net's processing": ([foreign], torch_only),
        "exported": ([exported_model], {}),
        "several models": ([model, gated_model], torch_only),
    }[request.param]
    return Predictor.open(models, options=PredictionOptions(**options))


def damaged_copy(images, folder, path, change):
    """Copy the images, the voxels of one of them changed, as float32."""
    copies = shutil.copytree(images, folder)
    image = nib.load(copies / path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    change(data)
    nib.save(nib.Nifti1Image(data, image.affine), copies / path)
    return copies


def test_image_with_a_voxel_that_is_no_number_is_refused(road, images, tmp_path, rng):
    for channel, value in enumerate(rng.choice([np.nan, np.inf, -np.inf], 2, replace=False)):
        path = f"{rng.choice(['a', 'b'])}_{channel:04d}.nii.gz"
        voxel = rng.random(3)

        def change(data, voxel=voxel, value=value):
            data[tuple((voxel * data.shape).astype(int))] = value

        copies = damaged_copy(images, tmp_path / str(channel), path, change)
        with pytest.raises(InputFileError, match=rf"{path}: 1 of \d+ voxels are NaN or infinite"):
            road.predict_folder(copies, tmp_path / "out")
        assert f"{path[0]}.nii.gz" not in masks_in(tmp_path / "out")


def test_blank_channel_is_refused(road, images, tmp_path, rng):
    for channel, value in enumerate((0, rng.integers(1, 900))):
        path = f"a_{channel:04d}.nii.gz"
        copies = damaged_copy(images, tmp_path / path, path, lambda data, value=value: data.fill(value))
        with pytest.raises(InputFileError, match=rf"{path}: is blank: every voxel is {value};"):
            road.predict_folder(copies, tmp_path / "out")
        assert not masks_in(tmp_path / "out")


def doing_without_the_second(model, folder):
    """Return a copy of a model whose plan says that it was trained with channel dropout."""
    path = shutil.copytree(model, folder) / "plans.json"
    second = json.loads((folder / "dataset.json").read_text())["channel_names"]["1"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {MISSING_CHANNELS: [second]}))
    return folder


@pytest.mark.parametrize("name", ["model", "foreign"])
def test_blank_channel_is_zeros_to_a_model_that_was_trained_to_do_without(request, images, tmp_path, name):
    options = PredictionOptions(device="cpu", runtime="torch", folds=("0",))
    stock = request.getfixturevalue(name)
    model = doing_without_the_second(stock, tmp_path / "model")
    copies = damaged_copy(images, tmp_path / "images", "a_0001.nii.gz", lambda data: data.fill(0))
    predictor = Predictor.open([model], options=options)
    files = sorted(copies.glob("a_*"))
    (prepared,) = predictor.preprocess(files)
    (full,) = predictor.preprocess(sorted(images.glob("a_*")))
    assert not prepared.image[1].any()
    np.testing.assert_array_equal(prepared.image[0], full.image[0])
    assert predictor.predict_folder(copies, tmp_path / "out") == 2
    # No average with a model that needs the channel, and no other blank channel.
    with pytest.raises(InputFileError, match="is blank: every voxel is 0;"):
        Predictor.open([model, stock], options=options).preprocess(files)
    copies = damaged_copy(images, tmp_path / "first", "a_0000.nii.gz", lambda data: data.fill(0))
    with pytest.raises(InputFileError, match="is blank: every voxel is 0;"):
        predictor.preprocess(sorted(copies.glob("a_*")))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused_with_the_case(open_predictor, cases, tmp_path, rng, value):
    class Overflowing(Brightness):
        def logits(self, image):
            logits = super().logits(image)
            logits[tuple((rng.random(4) * logits.shape).astype(int))] = value
            return logits

    with pytest.raises(InputFileError, match=r"a_0000\.nii\.gz: logits: not finite"):
        open_predictor(Overflowing()).predict_folder(cases, tmp_path / "out")
    assert not masks_in(tmp_path / "out")


def test_channel_that_cannot_be_scaled_is_refused_with_the_case(open_predictor, cases, tmp_path):
    path = cases / "a_0000.nii.gz"
    image = nib.load(path)
    data = np.zeros(image.shape, dtype=np.float32)
    data[5, 6, 7] = 1  # both percentiles are 0
    nib.save(nib.Nifti1Image(data, image.affine), path)
    with pytest.raises(SGNetError, match=r"a_0000\.nii\.gz: a channel .* percentiles are both 0"):
        open_predictor().predict_folder(cases, tmp_path / "out")
    assert not masks_in(tmp_path / "out")


def test_preprocessed_image_that_is_no_number_is_refused(open_predictor, cases, tmp_path, monkeypatch):
    def normalise(channel, **_):
        return np.full(channel.shape, np.nan, dtype=np.float32)

    monkeypatch.setattr("sgnet_nnunet.inference.preprocessing.normalise", normalise)
    with pytest.raises(InputFileError, match=r"a_0000\.nii\.gz: preprocessed image: not finite"):
        open_predictor().predict_folder(cases, tmp_path / "out")


# --- several models ----------------------------------------------------------------------------------------


def other_of(model, folder):
    """Return a second model: the first one's other fold as its fold 0."""
    other = shutil.copytree(model, folder)
    shutil.copy(other / "fold_1/checkpoint_final.pth", other / "fold_0")
    return other


@pytest.mark.slow
@KINDS
def test_masks_are_those_of_nnunets_ensemble(models, images, tmp_path, trained_kind):
    options = PredictionOptions(
        device="cpu", engine="tiled", folds=("0",), step_size=1, save_probabilities=True
    )
    folders = [models[trained_kind], other_of(models[trained_kind], tmp_path / "other")]
    for index, folder in enumerate(folders):
        predict(images, tmp_path / str(index), model_folders=[folder], options=options)
    assert predict(images, tmp_path / "out", model_folders=folders, options=options) == 2
    plans = PlansManager(json.loads((folders[0] / "plans.json").read_text()))
    labels = plans.get_label_manager(json.loads((folders[0] / "dataset.json").read_text()))
    masks = masks_in(tmp_path / "out")
    for name in ("a", "b"):
        merge_files(
            [str(tmp_path / f"{index}/{name}.npz") for index in range(2)],
            str(tmp_path / name),
            ".nii.gz",
            plans.image_reader_writer_class(),
            labels,
            save_probabilities=True,
        )
        ours, theirs = (
            np.load(folder / f"{name}.npz")["probabilities"] for folder in (tmp_path / "out", tmp_path)
        )
        np.testing.assert_array_equal(ours, theirs)
        expected = np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(masks[f"{name}.nii.gz"], expected)
        assert (expected != masks_in(tmp_path / "0")[f"{name}.nii.gz"]).any()


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("dataset.json", "labels", {"background": 0, "a": 1, "b": 2}, "labels"),
        ("dataset.json", "channel_names", {"0": "T1"}, "channels"),
        ("plans.json", "image_reader_writer", "SimpleITKIO", "reader SimpleITKIO"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(model, tmp_path, file, key, value, message):
    path = shutil.copytree(model, tmp_path / "other") / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(SGNetError, match=message):
        Predictor.open([model, tmp_path / "other"], options=PredictionOptions(device="cpu"))


def test_all_models_are_loaded_before_anything_is_written(model, images, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    (other / "fold_0/checkpoint_final.pth").unlink()
    options = PredictionOptions(device="cpu", folds=("0",))
    with pytest.raises(InputFileError, match=r"other/fold_0/checkpoint_final\.pth: there is no such file"):
        predict(images, tmp_path / "out", model_folders=[model, other], options=options)
    assert not (tmp_path / "out").exists()


def test_operating_point_is_for_one_model(model, images, tmp_path):
    with pytest.raises(SGNetError, match=r"point\.json: is for a single model"):
        predict(images, tmp_path, model_folders=[model, model], operating_point="point.json")


def test_models_with_one_plan_share_the_preprocessed_image(model, tmp_path, images):
    options = PredictionOptions(device="cpu", folds=("0",))
    predictor = Predictor.open([model, other_of(model, tmp_path / "other")], options=options)
    one, other = predictor.preprocess(sorted(images.glob("a_*")))
    assert one.image is other.image
