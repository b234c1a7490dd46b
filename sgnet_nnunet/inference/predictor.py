"""Prediction of a folder of images: find cases, read, preprocess, run the engine, postprocess, write.

Every kind of model goes through the same stages and differs in its engine: one fold or several (logits
averaged), one model or several (probabilities averaged on the image's grid), trained or exported. PyTorch
is imported by trained models only.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import check_output_files
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.engines import Engine, Mirrored, finite_logits, gates_of_last
from sgnet_nnunet.inference.exported import (
    check_file,
    choose_exported_engine,
    is_exported,
    open_exported,
    read_export,
)
from sgnet_nnunet.inference.operating_point import FILE_NAME as POINT_FILE
from sgnet_nnunet.inference.operating_point import (
    OperatingPoint,
    Provenance,
    apply_operating_point,
    combine_checksums,
    find_operating_point,
    warn_of_unused_points,
)
from sgnet_nnunet.inference.plan import ModelDescription, Plan, read_description, read_plan
from sgnet_nnunet.inference.postprocessing import (
    MODEL_FILES,
    classes_of,
    probabilities_on_image,
    segment,
    write_mask,
    write_model_files,
    write_probabilities,
)
from sgnet_nnunet.inference.preprocessing import Prepared, prepare
from sgnet_nnunet.nifti import read_channels
from sgnet_nnunet.nnunet import CHECKPOINT, find_cases
from sgnet_nnunet.parallel import ahead, behind

if TYPE_CHECKING:
    from sgnet_nnunet.inference.nnunet_adapter import NnunetProcessing

Processing: TypeAlias = "PlanProcessing | NnunetProcessing"
"""How a plan turns images into the network's input, and logits into masks."""

Prediction: TypeAlias = tuple[NDArray[np.integer], NDArray[np.float32] | None]
"""A case's mask (z, y, x) and, if asked for, probabilities (heads, z, y, x), with the reader's axes."""

Logits: TypeAlias = list[NDArray[np.float32]]
"""A case's logits from each model, shape (heads, z, y, x) on its network's grid."""

Case = TypeVar("Case")

MOST_BYTES_NEXT_TO_OTHERS = 1 << 28
"""Bytes of a preprocessed image: no other case is in memory with a larger one."""

GPU_THREADS = 3
"""Cases that are preprocessed, and written, at a time by default next to a GPU."""


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How to predict; the defaults suit a CPU. The options are those of `sgnet predict`.

    Attributes:
        folds: Folds whose networks are averaged; none for all that are trained.
        device: cpu, cuda or mps; None for cuda if there is one, else cpu.
        engine: auto, tiled (nnU-Net's sliding window), whole or sparse.
        runtime: auto, torch or openvino.
        precision: What OpenVINO computes in, f32 or bf16.
        max_memory: Memory that the network may take, in bytes; None to go by what is free.
        step_size: Step of the sliding window in patches.
        mirroring: Also predict mirrored images, and average: up to 8 times slower.
        trust: Allow the model to run code of its own, see `inference.trust`.
        preprocessing_threads: Cases that are read and preprocessed at a time while the network works;
            None for 1, or 3 next to a GPU; 0 means 1. Likewise `export_threads`, for writing.
        num_parts: Parts that the cases are dealt out to, one a run; `part_id` counts from 0.

    Raises:
        SGNetError: If there is no such part.
    """

    folds: tuple[str, ...] = ()
    checkpoint: str = CHECKPOINT
    device: str | None = None
    engine: str = "auto"
    runtime: str = "auto"
    precision: str = "f32"
    max_memory: int | None = None
    step_size: float = 0.5
    mirroring: bool = False
    trust: bool = False
    preprocessing_threads: int | None = None
    export_threads: int | None = None
    continue_prediction: bool = False
    save_probabilities: bool = False
    num_parts: int = 1
    part_id: int = 0

    def __post_init__(self) -> None:
        part, parts = self.part_id, self.num_parts
        if not 0 <= part < parts:
            raise SGNetError(f"--part-id {part}: with --num-parts {parts} it must be 0 to {parts - 1}")


@dataclass(frozen=True)
class PlanProcessing:
    """The torch-free processing, which equals nnU-Net's to 1e-6 for the plans that `read_plan` accepts."""

    plan: Plan

    def prepare(
        self, channels: Sequence[NDArray[np.float32]], properties: dict[str, Any], *, pool: Executor
    ) -> Prepared:
        """Return the preprocessed image; see `preprocessing.prepare`."""
        return prepare(channels, properties, self.plan, pool=pool)

    def probabilities(self, logits: NDArray[np.float32], properties: dict[str, Any]) -> NDArray[np.float32]:
        """Return probabilities on the image's grid; see `postprocessing.probabilities_on_image`."""
        return probabilities_on_image(logits, properties, self.plan)

    def postprocess(
        self,
        logits: NDArray[np.float32],
        properties: dict[str, Any],
        *,
        point: OperatingPoint | None,
        with_probabilities: bool,
        scene: Scene | None = None,
    ) -> Prediction:
        """Return a case's mask and, if they are asked for, its probabilities."""
        probabilities = self.probabilities(logits, properties) if with_probabilities else None
        return segment(logits, properties, self.plan, point=point, scene=scene), probabilities


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """One model, trained or exported; what takes seconds is done when it is first asked for.

    Attributes:
        device: Where the engine computes: cpu, cuda or mps.
        find_provenance: Returns its networks and settings, by checksums of the weights.
    """

    folder: Path
    description: ModelDescription
    processing: Processing
    build_engine: Callable[[], Engine]
    device: str
    find_provenance: Callable[[], Provenance]

    @cached_property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            SGNetError: If the network does not fit `plans.json` and `dataset.json`, or cannot be opened.
        """
        engine = self.build_engine()
        channels, heads = len(self.description.channels), self.description.labels.heads
        if (engine.channels, engine.heads) != (channels, heads):
            raise SGNetError(
                f"{self.folder}: the network has {engine.channels} channels and {engine.heads} heads, "
                f"plans.json and dataset.json ask for {channels} and {heads}; train or export the model again"
            )
        return engine


class Predictor:
    """Predicts cases with one model or the average of several, alike in images and labels.

    Masks are cut at the operating point; None gives nnU-Net's own segmentation.
    """

    def __init__(
        self, models: Sequence[Model], *, options: PredictionOptions, point: OperatingPoint | None = None
    ) -> None:
        self.models = tuple(models)
        self.options = options
        self.point = point
        self.description = models[0].description
        # NumPy and zlib run without the interpreter's lock.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="channels")

    @property
    def optional_channels(self) -> frozenset[int]:
        """Numbers of the channels that every model was trained to do without; missing ones are all 0."""
        return frozenset.intersection(*(model.description.optional_channels for model in self.models))

    @classmethod
    def open(
        cls,
        model_folders: Sequence[Path],
        *,
        options: PredictionOptions = PredictionOptions(),
        operating_point: str = "auto",
    ) -> "Predictor":
        """Return the predictor of one or several models; the engines are built when they are first used.

        The arguments are those of `predict`. An average of several models has no operating point.

        Raises:
            InputFileError: If a file of a model is missing or damaged, or the operating point was tuned
                for other networks or settings.
            SGNetError: If the models do not fit together, or an option does not fit them.
        """
        _check_alike(model_folders)
        if len(model_folders) > 1:
            warn_of_unused_points(operating_point, model_folders)
        predictor = cls([open_model(folder, options) for folder in model_folders], options=options)
        if len(model_folders) == 1:
            provenance = predictor.models[0].find_provenance
            if operating_point == "auto" and is_exported(model_folders[0]):
                export = read_export(model_folders[0])
                if POINT_FILE in export.files_sha256:  # else it was added after the export
                    check_file(model_folders[0], export, POINT_FILE)
            predictor.point = find_operating_point(operating_point, model_folders[0], provenance=provenance)
        return predictor

    def predict_folder(
        self,
        images: Path,
        output: Path,
        *,
        on_start: Callable[[int], object] = lambda _: None,
        on_done: Callable[[], object] = lambda: None,
    ) -> int:
        """Predict the cases of a folder, and return how many; the arguments and errors are `predict`'s."""
        cases = self._cases_to_predict(images, output)
        endings = (".npz", ".pkl", self.description.file_ending)
        check_output_files(
            output, (*MODEL_FILES, *(f"{name}{ending}" for name in cases for ending in endings))
        )

        def start() -> None:
            write_model_files(output, self.description, self._arguments(images, output))
            on_start(len(cases))

        write = partial(self._postprocess_and_write, output)
        with_scenes = self.point is not None and self.point.rejector is not None
        self.predict_cases(cases, write, with_scenes=with_scenes, on_start=start, on_done=on_done)
        return len(cases)

    def predict_cases(
        self,
        cases: Mapping[Case, Sequence[Path]],
        use: Callable[..., object],
        *,
        with_scenes: bool = False,
        on_start: Callable[[], object] = lambda: None,
        on_done: Callable[[], object] = lambda: None,
    ) -> None:
        """Have other threads `use` each case's logits and properties, lists with one for each model.

        `use` gets the case, its logits, its properties and, if asked for, the first model's scene.
        While the engine works on one case, the next is read and preprocessed, and the one before is used.
        `on_start` is called when the engines are built, `on_done` after each case.

        Raises:
            InputFileError: If an image is missing, damaged, blank or on another grid than its case's first,
                or its logits are not finite.
            SGNetError: If an engine cannot be built, or an image does not fit into memory.
        """
        threads = GPU_THREADS if any(model.device == "cuda" for model in self.models) else 1
        reading, writing = (
            threads if asked is None else max(asked, 1)
            for asked in (self.options.preprocessing_threads, self.options.export_threads)
        )
        with ahead(self.preprocess, cases.values(), threads=reading, alone=_is_large) as prepared:
            for model in self.models if cases else ():
                _ = model.engine  # built while the first case is read
            on_start()
            with behind(use, threads=writing, on_done=on_done) as submit:
                for case, paths in cases.items():
                    inputs = next(prepared)  # zip would keep the last image in memory
                    alone, properties = _is_large(inputs), [each.properties for each in inputs]
                    logits = self.run_engines(inputs, paths[0])
                    scenes = [self.scene_of(inputs)] if with_scenes else []
                    del inputs
                    submit(case, logits, properties, *scenes, now=alone)
                    del logits, scenes

    def _cases_to_predict(self, images: Path, output: Path) -> dict[str, list[Path]]:
        """Return the files of each case of this run's part, but for those whose masks are to be kept."""
        ending, options = self.description.file_ending, self.options
        cases = find_cases(images, file_ending=ending, channels=len(self.description.channels))
        part = dict(list(cases.items())[options.part_id :: options.num_parts])
        endings = [ending, ".npz"] if options.save_probabilities else [ending]
        return {
            name: paths
            for name, paths in part.items()
            if not options.continue_prediction
            or not all((output / f"{name}{ending}").is_file() for ending in endings)
        }

    def preprocess(self, paths: Sequence[Path]) -> list[Prepared]:
        """Read and preprocess a case for each model; models with the same plan share the image."""
        channels, properties = read_channels(paths, reader=self.description.reader, pool=self._pool)
        for number, (path, channel) in enumerate(zip(paths, channels, strict=True)):
            if channel.min() == channel.max() and (channel.flat[0] or number not in self.optional_channels):
                problem = f"is blank: every voxel is {channel.flat[0]:g}"
                raise InputFileError(path, problem, "copy or download it again")
        try:
            return self.prepare(channels, properties)
        except SGNetError as error:
            raise SGNetError(f"{paths[0]}: {error}") from error

    def prepare(self, channels: list[NDArray[np.float32]], properties: dict[str, Any]) -> list[Prepared]:
        """Preprocess a case's channels, each (z, y, x) with the reader's axes, for each model.

        They may be overwritten. The properties are the reader's; their `spacing` is needed.

        Raises:
            SGNetError: If a normalisation is not known here.
        """
        inputs: list[Prepared] = []
        for index, model in enumerate(self.models):
            processings = [other.processing for other in self.models[:index]]
            if model.processing in processings:
                inputs.append(inputs[processings.index(model.processing)])
                continue
            is_last = index == len(self.models) - 1
            own = channels if is_last else [channel.copy() for channel in channels]
            inputs.append(model.processing.prepare(own, properties, pool=self._pool))
        return inputs

    def run_engines(self, inputs: Sequence[Prepared], path: Path) -> Logits:
        """Return each model's logits of the case that a file belongs to; see `finite_logits`."""
        pairs = zip(self.models, inputs, strict=True)
        return [finite_logits(model.engine, prepared.image, path=path) for model, prepared in pairs]

    def scene_of(self, inputs: Sequence[Prepared]) -> Scene:
        """Return the scene of the case that the first model's engine has just predicted."""
        scores = gates_of_last(self.models[0].engine, scores=True)
        return Scene.of(inputs[0], self.description.plans["transpose_forward"], scores)

    def _postprocess(
        self, logits: Logits, properties: list[dict[str, Any]], scene: Scene | None
    ) -> Prediction:
        with_probabilities = self.options.save_probabilities
        if len(self.models) == 1:
            return self.models[0].processing.postprocess(
                logits[0],
                properties[0],
                point=self.point,
                with_probabilities=with_probabilities,
                scene=scene,
            )
        mean, labels = self.mean_probabilities(logits, properties), self.description.labels
        if self.point is None:
            mask: NDArray[np.integer] = classes_of(mean, labels).astype(labels.mask_type, copy=False)
        else:
            mask = apply_operating_point(mean, self.point, labels, tuple(properties[0]["spacing"]))
        return mask, mean if with_probabilities else None

    def _postprocess_and_write(
        self,
        output: Path,
        name: str,
        logits: Logits,
        properties: list[dict[str, Any]],
        scene: Scene | None = None,
    ) -> None:
        """Write a case's files, the mask last: `--continue_prediction` skips cases with a mask."""
        mask, probabilities = self._postprocess(logits, properties, scene)
        if probabilities is not None:
            write_probabilities(output, name, probabilities, properties[0])
        path = output / f"{name}{self.description.file_ending}"
        write_mask(path, mask, properties[0], reader=self.description.reader)

    def mean_probabilities(self, logits: Logits, properties: list[dict[str, Any]]) -> NDArray[np.float32]:
        """Return a case's probabilities, (heads, z, y, x), on its image's grid with the reader's axes."""
        each = (
            model.processing.probabilities(its_logits, its_properties)
            for model, its_logits, its_properties in zip(self.models, logits, properties, strict=True)
        )
        total: NDArray[np.float32] = reduce(np.add, each)
        return total if len(self.models) == 1 else total / np.float32(len(self.models))

    def _arguments(self, images: Path, output: Path) -> dict[str, object]:
        """Return the arguments that nnU-Net's `predict_from_files` would have had."""
        return {
            "list_of_lists_or_source_folder": str(images),
            "output_folder_or_list_of_truncated_output_files": str(output),
            "save_probabilities": self.options.save_probabilities,
            "overwrite": not self.options.continue_prediction,
            "num_processes_preprocessing": self.options.preprocessing_threads or 0,
            "num_processes_segmentation_export": self.options.export_threads or 0,
            "folder_with_segs_from_prev_stage": None,
            "num_parts": self.options.num_parts,
            "part_id": self.options.part_id,
        }


def predict(
    images: Path,
    output: Path,
    *,
    model_folders: Sequence[Path],
    operating_point: str = "auto",
    options: PredictionOptions = PredictionOptions(),
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder, as `sgnet predict` does, and return how many were predicted.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to, with the files that nnU-Net leaves there.
        model_folders: nnU-Net's folders of trainings, or folders of `sgnet export`; several are averaged.
        operating_point: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder.
        options: How to predict; the defaults suit a CPU.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If a file is missing or damaged, or a mask cannot be written.
        SGNetError: If the models, or what the options ask of them, are not available.

    >>> from sgnet_nnunet import predict  # doctest: +SKIP
    >>> predict(Path("imagesTs"), Path("masks"), model_folders=[Path("openvino")])  # doctest: +SKIP
    20
    """
    predictor = Predictor.open(model_folders, options=options, operating_point=operating_point)
    return predictor.predict_folder(images, output, on_start=on_start, on_done=on_done)


def open_model(folder: Path, options: PredictionOptions) -> Model:
    """Open a folder of `sgnet export`, or one of nnU-Net's trainings; the errors are `Predictor.open`'s."""
    if is_exported(folder):
        return _open_exported(folder, options)
    # Importing PyTorch takes seconds, and an exported model does not need it.
    from sgnet_nnunet.inference.trained_model import open_trained  # noqa: PLC0415

    return open_trained(folder, options)


def _open_exported(folder: Path, options: PredictionOptions) -> Model:
    refuse_options(options)
    export = read_export(folder)
    for name in ("plans.json", "dataset.json"):
        check_file(folder, export, name)
    plan = read_plan(folder, export.configuration)
    folds = tuple(sorted(options.folds or export.folds))
    axes = export.mirroring_axes if options.mirroring else ()
    engine_name = choose_exported_engine(folder, export, folds, options.engine)
    settings = {name: getattr(options, name) for name in ("precision", "engine", "max_memory")}
    open_engine = partial(open_exported, folder, folds=folds, **settings)
    return Model(
        folder=folder,
        description=plan,
        processing=PlanProcessing(plan),
        build_engine=lambda: Mirrored(open_engine(), axes) if axes else open_engine(),
        device="cpu",
        find_provenance=lambda: Provenance(
            model=export.model,
            engine=engine_name,
            folds=folds,
            weights_sha256=combine_checksums(export.weights_sha256.get(fold, "") for fold in folds),
            mirroring=bool(axes),
            precision=options.precision,
        ),
    )


def refuse_options(options: PredictionOptions) -> None:
    """Raise an SGNetError if something is asked of an exported model that only a trained one can do."""
    if given := needs_training(options):
        raise SGNetError(
            f"{', '.join(given)}: not for an exported model, which runs in OpenVINO on the CPU; leave it "
            "out, or name the trained model's folder"
        )


def needs_training(options: PredictionOptions) -> list[str]:
    """Return what is asked for that a trained model can do and an exported one cannot, as on the line."""
    default = PredictionOptions()
    flags = {"checkpoint": "-chk", "step_size": "-step_size"}
    given = [flag for name, flag in flags.items() if getattr(options, name) != getattr(default, name)]
    given += [f"--engine {options.engine}"] if options.engine == "tiled" else []
    given += [f"--runtime {options.runtime}"] if options.runtime == "torch" else []
    given += [f"-device {options.device}"] if options.device not in {None, "cpu"} else []
    return given


def _check_alike(model_folders: Sequence[Path]) -> None:
    """Raise an SGNetError if there is no model, or models cannot be averaged."""
    if not model_folders:
        raise SGNetError("no model is named; name one by -m")
    first, *others = model_folders
    expected = read_description(first)
    for folder in others:
        description = read_description(folder)
        # Another reader may give the axes in another order.
        for key in ("labels", "channels", "file_ending", "reader"):
            here, there = getattr(description, key), getattr(expected, key)
            if here != there:
                raise SGNetError(
                    f"{folder}: {key.replace('_', ' ')} {here}, but {first} has {there}; average models of "
                    "one data set"
                )


def _is_large(inputs: Sequence[Prepared]) -> bool:
    return sum(prepared.image.nbytes for prepared in inputs) > MOST_BYTES_NEXT_TO_OTHERS
