"""Prediction in this process: the network stage on preprocessed images, its growth, and its agreement."""

import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import in_turn, peak_megabytes, reset_peak, seconds

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import find_metric
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nnunet import find_cases

REPEATS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 2), (4, 4, 2))
"""How often the part `growth` repeats the image along z, y, x."""

SPARSE, SPARSE_BF16 = "block-sparse, OpenVINO f32", "block-sparse, OpenVINO bf16"
WHOLE, SPARSE_TORCH = "whole image, OpenVINO f32", "block-sparse, PyTorch"
DENSE = "one dense pass, PyTorch"
SLIDING_WINDOW = "nnU-Net's sliding window"
ENGINES: dict[str, dict[str, Any]] = {
    SPARSE: {"requested": "sparse", "runtime": "openvino"},
    SPARSE_BF16: {"requested": "sparse", "runtime": "openvino", "precision": "bf16"},
    WHOLE: {"requested": "whole", "runtime": "openvino"},
    SPARSE_TORCH: {"requested": "sparse", "runtime": "torch"},
}

Image = NDArray[np.float32]
Logits = NDArray[np.float32]
Run = Callable[[Image], Logits]
"""Takes an image, shape (channels, z, y, x), and returns logits, shape (heads, z, y, x)."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way of predicting."""

    name: str  # engine or command
    # step of the sliding window as a share of the patch; None for the whole image at once
    step: float | None = None
    mirroring: bool = False  # whether mirrored images are averaged

    @property
    def text(self) -> str:
        """The setting in one line."""
        step = "whole image" if self.step is None else f"step {self.step:g}"
        return f"{self.name}, {step}, {'mirroring' if self.mirroring else 'no mirroring'}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model and patients to predict."""

    model: Path  # nnU-Net's folder of the training
    fold: str  # the fold that is measured
    cases: dict[str, list[Path]]  # images of each patient, one per channel
    labels: Path | None  # folder of the reference masks, or None
    work: Path  # folder for intermediate files
    ending: str  # file ending of the images

    @property
    def first(self) -> str:
        """The patient that is timed."""
        return next(iter(self.cases))

    @cached_property
    def exported(self) -> Path:
        """Folder of the model as `sgnet export` writes it, made on first use."""
        from sgnet_nnunet.inference.export import export_openvino  # noqa: PLC0415 - PyTorch takes seconds

        folder = self.work / "exported"
        shutil.rmtree(folder, ignore_errors=True)  # that of an earlier version of the package may differ
        export_openvino(self.model, folder, folds=(self.fold,))
        return folder

    def predictor(self, **options: Any) -> Any:  # noqa: ANN401 - nnU-Net has no types
        """Return nnU-Net's own predictor of the model on the CPU, with options such as `tile_step_size`."""
        import torch  # noqa: PLC0415
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415

        predictor = nnUNetPredictor(
            device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, **options
        )
        predictor.initialize_from_trained_model_folder(str(self.model), (self.fold,), "checkpoint_final.pth")
        predictor.network.load_state_dict(predictor.list_of_parameters[0])
        predictor.network.eval()
        return predictor

    @cached_property
    def mirroring_axes(self) -> tuple[int, ...]:
        """Spatial axes that the checkpoint allows to be mirrored; none after a training without mirroring."""
        return tuple(self.predictor().allowed_mirroring_axes or ())

    def preprocessed(self, predictor: Any, case: str) -> tuple[Image, NDArray[np.bool_] | None]:  # noqa: ANN401
        """Return a patient as the plan of nnU-Net's predictor preprocesses it.

        That is the image, shape (channels, z, y, x), and the reference, (z, y, x), or None without one.
        """
        label = None if self.labels is None else self.labels / f"{case}{self.ending}"
        exists = label is not None and label.is_file()
        configuration = predictor.configuration_manager
        image, reference, _ = configuration.preprocessor_class(verbose=False).run_case(
            [str(path) for path in self.cases[case]], str(label) if exists else None,
            predictor.plans_manager, configuration, predictor.dataset_json,
        )  # fmt: skip
        return np.asarray(image, dtype=np.float32), reference[0] > 0 if exists else None


def find_subject(model: Path, images: Path, work: Path, *, fold: str = "0") -> Subject:
    """Return a model and the patients of a folder, with the references in `labelsTs` next to it.

    Raises:
        InputFileError: If there is no such model, or no patient.
    """
    weights = model / f"fold_{fold}" / "checkpoint_final.pth"
    if not weights.is_file():
        raise InputFileError(weights, "there is no such file", "name the folder of a finished training")
    dataset: dict[str, Any] = read_json(model / "dataset.json")
    labels = images.parent / images.name.replace("images", "labels")
    work.mkdir(parents=True, exist_ok=True)
    return Subject(
        model=model.resolve(),
        fold=fold,
        cases=find_cases(
            images.resolve(), file_ending=dataset["file_ending"], channels=len(dataset["channel_names"])
        ),
        labels=labels.resolve() if labels != images and labels.is_dir() else None,
        work=work.resolve(),
        ending=dataset["file_ending"],
    )


def build_engines(predictor: Any, names: Sequence[str]) -> dict[str, Run]:  # noqa: ANN401
    """Return whole-image engines of a predictor's network, without bf16 where the CPU has none.

    The names are keys of `ENGINES`, or `DENSE`.
    """
    import torch  # noqa: PLC0415

    from sgnet_nnunet.inference.runtimes import supports_bf16  # noqa: PLC0415
    from sgnet_nnunet.inference.torch_engines import build_engine  # noqa: PLC0415

    network, weights = predictor.network, predictor.list_of_parameters
    runs: dict[str, Run] = {}
    for name in names:
        if name == DENSE:
            runs[name] = padded(partial(_forward, network), network.geometry.divisor)
        elif name != SPARSE_BF16 or supports_bf16():
            engine = build_engine(network, weights, device=torch.device("cpu"), **ENGINES[name])
            assert engine is not None  # noqa: S101 - None stands for nnU-Net's sliding window
            runs[name] = engine.logits
    return runs


def _forward(network: Any, batch: Image) -> Logits:  # noqa: ANN401
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(batch)).numpy())


def padded(run: Run, divisor: int) -> Run:
    """Return a function that pads an image with zeros to multiples of `divisor` and crops the logits.

    `run` takes a batch of one image and returns one of logits.
    """

    def padding(image: Image) -> Logits:
        _, z, y, x = image.shape
        margins = [(0, 0), *((0, -length % divisor) for length in (z, y, x))]
        return run(np.pad(image, margins)[None])[0, :, :z, :y, :x]

    return padding


def sliding_window(predictor: Any) -> Run:  # noqa: ANN401
    """Return the sliding window of one of nnU-Net's predictors."""
    import torch  # noqa: PLC0415

    def run(image: Image) -> Logits:
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
        return np.asarray(logits.numpy(), dtype=np.float32)

    return run


def open_voxels(network: Any, logits: Logits) -> NDArray[np.bool_]:  # noqa: ANN401
    """Return where the finest gate is open, shape (z, y, x): elsewhere logits are the background's."""
    background = np.asarray(network.geometry.background, dtype=np.float32)
    return np.asarray((logits != background[:, None, None, None]).any(axis=0))


def measure_network(subject: Subject, *, rounds: int, stock_rounds: int) -> dict[str, Any]:
    """Time the network stage on one preprocessed patient, every setting once per round."""
    from sgnet_nnunet.inference.engines import Mirrored  # noqa: PLC0415
    from sgnet_nnunet.inference.torch_engines import build_engine  # noqa: PLC0415

    predictor = subject.predictor()
    image, _ = subject.preprocessed(predictor, subject.first)
    engines = build_engines(predictor, (SPARSE, SPARSE_BF16, WHOLE, SPARSE_TORCH, DENSE))
    runs = {Setting(name=name): run for name, run in engines.items()}
    stock = [Setting(name=SLIDING_WINDOW, step=step) for step in (0.5, 0.75)]
    if subject.mirroring_axes:
        weights, device = predictor.list_of_parameters, predictor.device
        engine = build_engine(predictor.network, weights, device=device, **ENGINES[SPARSE])
        assert engine is not None  # noqa: S101 - as above
        runs[Setting(name=SPARSE, mirroring=True)] = Mirrored(engine, subject.mirroring_axes).logits
        stock.append(Setting(name=SLIDING_WINDOW, step=0.5, mirroring=True))
    logits = {setting: run(image) for setting, run in runs.items()}  # also the warm-up
    runs |= {
        setting: sliding_window(
            subject.predictor(tile_step_size=setting.step, use_mirroring=setting.mirroring)
        )
        for setting in stock
    }
    opened = open_voxels(predictor.network, logits[Setting(name=SPARSE)])
    found = in_turn(
        {setting.text: partial(seconds, partial(run, image)) for setting, run in runs.items()},
        {setting.text: stock_rounds if setting in stock else rounds for setting in runs},
    )
    rows = [
        asdict(setting) | {"seconds": statistics.median(found[setting.text]), "rounds": found[setting.text]}
        for setting in runs
    ]
    return {
        "case": subject.first,
        "shape": list(image.shape),
        "brain_share": float((image != 0).any(axis=0).mean()),
        "open_share": float(opened.mean()),
        "rows": with_ratios(rows, stock=SLIDING_WINDOW),
    }


def with_ratios(rows: Sequence[dict[str, Any]], *, stock: str) -> list[dict[str, Any]]:
    """Add how many times as fast each row is as nnU-Net at each step with the same mirroring."""
    references = [row for row in rows if row["name"] == stock]
    return [
        row
        | {
            f"times_step_{other['step']:g}": other["seconds"] / row["seconds"]
            for other in references
            if row["name"] != stock and row["mirroring"] == other["mirroring"]
        }
        for row in rows
    ]


def measure_growth(subject: Subject, *, rounds: int, million_voxels: float) -> dict[str, Any]:
    """Time the block-sparse engine on the patient's image, repeated along its axes up to a size."""
    predictor = subject.predictor()
    image, _ = subject.preprocessed(predictor, subject.first)
    run = build_engines(predictor, (SPARSE,))[SPARSE]
    sizes = [r for r in REPEATS if image[0].size * np.prod(r) <= 1e6 * million_voxels]
    run(image)  # warm-up

    def measure(repeats: tuple[int, ...]) -> tuple[float, float]:
        large = np.tile(image, (1, *repeats))
        reset_peak()
        return seconds(partial(run, large)), peak_megabytes()

    found = in_turn({str(repeats): partial(measure, repeats) for repeats in sizes}, rounds)
    rows = []
    for repeats in sizes:
        times, peaks = zip(*found[str(repeats)], strict=True)
        million = image[0].size * np.prod(repeats) / 1e6
        spent = statistics.median(times)
        row = {"million voxels": million, "seconds": spent, "ns per voxel": 1e3 * spent / million}
        rows.append(row | {"peak MB": max(peaks)})
    return {"engine": SPARSE, "rounds": rounds, "rows": rows}


TILES, ONE_TILE = "nnU-Net, the plan's tiles", "nnU-Net, one tile"
METRICS = ("dice", "precision", "recall", "lesion_sensitivity", "false_positives")


Mask = NDArray[np.bool_]
"""Shape (z, y, x)."""


def measure_agreement(subject: Subject, *, patients: int, picture: Path) -> dict[str, Any]:
    """Compare masks on the network's grid, without mirroring; tiles have step 0.5.

    At most so many patients are compared; the picture, PNG, is of the one whose masks differ most.
    """
    predictor = subject.predictor()
    runs = build_engines(predictor, (SPARSE, SPARSE_BF16))
    runs |= {ONE_TILE: one_tile(subject), TILES: sliding_window(subject.predictor(use_mirroring=False))}
    spacing = [float(size) for size in predictor.configuration_manager.spacing]
    rows, scores, drawn = [], [], -1
    for case in islice(subject.cases, patients):
        image, reference = subject.preprocessed(predictor, case)
        masks = {
            name: foreground(run(image), background_head=predictor.network.background_head)
            for name, run in runs.items()
        }
        rows += [
            {"case": case, "other": name} | compare_masks(masks[SPARSE], masks[name])
            for name in (SPARSE_BF16, ONE_TILE, TILES)
            if name in masks
        ]
        if reference is not None:
            for name in (SPARSE, TILES):
                pair = MaskPair(masks[name].T, reference.T, affine=np.diag([*reversed(spacing), 1.0]))
                values = {name: find_metric(name)(pair) for name in METRICS}
                scores.append({"case": case, "prediction": name} | values)
        if rows[-1]["voxels"] > drawn:
            drawn = rows[-1]["voxels"]
            draw_difference(picture, image[0], masks[SPARSE], masks[TILES], spacing=spacing)
    patch = [int(length) for length in predictor.configuration_manager.patch_size]
    return {"patch_size": patch, "rows": rows, "scores": scores}


def one_tile(subject: Subject) -> Run:
    """Return nnU-Net's sliding window with one tile as large as the padded image: no tile has a border."""
    # Half precision has no place for the Gaussian weights of so large a tile's corners.
    predictor = subject.predictor(use_mirroring=False, use_gaussian=False)
    window = sliding_window(predictor)

    def run(batch: Image) -> Logits:
        predictor.configuration_manager.configuration["patch_size"] = list(batch.shape[2:])
        return window(batch[0])[None]

    return padded(run, predictor.network.geometry.divisor)


def foreground(logits: Logits, *, background_head: bool) -> Mask:
    """Return where any label but background, or any region, is predicted."""
    mask = logits[1:].max(axis=0) > logits[0] if background_head else logits.max(axis=0) > 0
    return np.asarray(mask)


def compare_masks(mask: Mask, other: Mask) -> dict[str, Any]:
    """Return the Dice of two masks, 1 if both are empty, and the number of voxels that differ."""
    total = int(mask.sum()) + int(other.sum())
    dice = 2 * int((mask & other).sum()) / total if total else 1.0
    return {"dice": dice, "voxels": int(np.count_nonzero(mask != other))}


def draw_difference(path: Path, scan: Image, ours: Mask, stock: Mask, *, spacing: list[float]) -> None:
    """Write a picture of the axial slice where two masks differ most: scan, both masks, difference.

    The scan is the first channel, of any scale; all shapes are (z, y, x), as is the spacing, in mm. The masks
    are those of the block-sparse engine and of nnU-Net's sliding window.
    """
    from sgnet_nnunet.report.figures import MODEL_COLOURS  # noqa: PLC0415 - not needed for the speeds
    from sgnet_nnunet.report.slices import (  # noqa: PLC0415
        Contour,
        Panel,
        draw_panels,
        save_png,
        to_grey,
        view_of,
    )

    k = worst_slice(ours, stock)
    volume, first, second = to_grey((scan - scan.min()).T), ours.T, stock.T
    blue, red = MODEL_COLOURS[:2]
    whole = Contour(mask=first, colour=blue, name="whole image")
    tiles = Contour(mask=second, colour=red, name="nnU-Net's tiles")
    only_whole = Contour(mask=first & ~second, colour=blue, name="only whole image")
    only_tiles = Contour(mask=second & ~first, colour=red, name="only tiles")
    differing = f"{np.count_nonzero(ours != stock)} voxels of the volume differ"
    panels = [
        Panel(grey=volume, k=k, title=title, contours=contours)
        for title, contours in (
            (f"slice {k}", ()),
            ("", (whole,)),
            ("", (tiles,)),
            (differing, (only_whole, only_tiles)),
        )
    ]
    view = view_of(volume > 0, spacing=tuple(spacing[::-1]), pixels_per_mm=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(draw_panels(panels, view), path)


def worst_slice(mask: Mask, other: Mask) -> int:
    """Return the z with most differing voxels; if there are none, that of the largest section."""
    counts = (mask != other).sum(axis=(1, 2))
    return int(np.argmax(counts if counts.any() else mask.sum(axis=(1, 2))))
