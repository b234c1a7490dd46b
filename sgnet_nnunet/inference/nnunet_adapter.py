"""nnU-Net's preprocessing of one case."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nnunetv2.inference.data_iterators import PreprocessAdapter
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.helpers import empty_cache
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.operating_point import OperatingPoint, apply_operating_point
from sgnet_nnunet.files import atomic_path, read_json
from sgnet_nnunet.inference.engines import Engine, Mirrored
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.torch_engines import build_engine
from sgnet_nnunet.inference.trained_model import initialise
from sgnet_nnunet.nnunet import find_cases, prints_to_log
from sgnet_nnunet.parallel import ahead, behind

_READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    AssertionError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    ImageDataError,
)


@dataclass(frozen=True, eq=False)
class Setup:
    """What nnU-Net's functions want to know of a model, weights aside.

    Attributes:
        plans: nnU-Net's plans manager.
        configuration: nnU-Net's configuration manager.
        dataset: The content of `dataset.json`.
    """

    plans: PlansManager
    configuration: ConfigurationManager
    dataset: dict[str, Any]


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Attributes:
        images: One a channel.
        output: The mask to write, without its ending; None if it is not written.
        previous: The mask of a cascade's previous stage, or None.
    """

    images: tuple[str, ...]
    output: str | None
    previous: str | None = None


def preprocess(files: CaseFiles, *, setup: Setup) -> dict[str, Any]:
    """Return nnU-Net's dictionary of a preprocessed case.

    Returns:
        `data`: the image, shape (channels, z, y, x); `data_properties`: what the reader and the
        preprocessor know of the case; `ofile`: the output.

    Raises:
        InputFileError: If a file of the case is damaged, or its channels do not fit together.
    """
    adapter = PreprocessAdapter(
        [list(files.images)],
        [files.previous],
        setup.configuration.preprocessor_class(verbose=False),
        [files.output],
        setup.plans,
        setup.dataset,
        setup.configuration,
    )
    try:
        batch: dict[str, Any] = next(adapter)
    except _READ_ERRORS as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputFileError(
            files.images[0],
            f"this file or another channel of the case cannot be read ({detail})",
            "copy it again, and go on with --continue_prediction",
        ) from error
    # A tensor would cross process borders by a file descriptor, of which there are few.
    return {**batch, "data": np.asarray(batch["data"], dtype=np.float32)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Writer:
    """Writes cases as nnU-Net does, but each file whole or not at all.

    Attributes:
        setup: The model's.
        point: Where masks are cut; None for nnU-Net's own segmentation.
        save_probabilities: Whether to write the `.npz` and `.pkl` that nnU-Net's ensembles and
            `sgnet tune` read.
        threads: Threads of PyTorch to resample with.
    """

    setup: Setup
    point: OperatingPoint | None = None
    save_probabilities: bool = False
    threads: int = 1

    def write_logits(self, logits: NDArray[np.floating], properties: dict[str, Any], output: str) -> None:
        """Write a case.

        Args:
            logits: Shape (heads, z, y, x) on the network's grid.
            properties: What nnU-Net's reader and preprocessor know of the case.
            output: The mask's path without its ending.

        Raises:
            InputFileError: If a file cannot be written.
        """
        if self.save_probabilities or self.point is not None:
            self.write_probabilities(self.probabilities(logits, properties), properties, output)
        else:
            self._write(self._convert(logits, properties, return_probabilities=False), properties, output)

    def probabilities(self, logits: NDArray[np.floating], properties: dict[str, Any]) -> NDArray[np.float32]:
        """Return probabilities on the image's grid, shape (classes or regions, z, y, x)."""
        _, probabilities = self._convert(logits, properties, return_probabilities=True)
        return np.asarray(probabilities)

    def write_probabilities(
        self, probabilities: NDArray[np.floating], properties: dict[str, Any], output: str
    ) -> None:
        """Write a case from its probabilities on the image's grid; see `write_logits`."""
        labels = self.setup.plans.get_label_manager(self.setup.dataset)
        if self.point is None:
            mask = labels.convert_probabilities_to_segmentation(probabilities)
        else:
            mask = apply_operating_point(probabilities, self.point, labels, tuple(properties["spacing"]))
        self._write(mask, properties, output, probabilities if self.save_probabilities else None)

    def _convert(
        self, logits: NDArray[np.floating], properties: dict[str, Any], *, return_probabilities: bool
    ) -> Any:  # noqa: ANN401 - nnU-Net returns one thing or another
        setup = self.setup
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            setup.plans,
            setup.configuration,
            setup.plans.get_label_manager(setup.dataset),
            properties,
            return_probabilities=return_probabilities,
            num_threads_torch=self.threads,
        )

    def _write(
        self,
        mask: NDArray[np.integer],
        properties: dict[str, Any],
        output: str,
        probabilities: NDArray[np.floating] | None = None,
    ) -> None:
        path = Path(output + self.setup.dataset["file_ending"])
        try:
            if probabilities is not None:
                with atomic_path(Path(f"{output}.npz")) as partial:
                    np.savez_compressed(partial, probabilities=probabilities)
                with atomic_path(Path(f"{output}.pkl")) as partial:
                    save_pickle(properties, str(partial))
            # Last, for by the mask --continue_prediction tells what is done.
            with atomic_path(path) as partial:
                self.setup.plans.image_reader_writer_class().write_seg(mask, str(partial), properties)
        except OSError as error:
            raise InputFileError(
                path,
                f"cannot be written ({error.strerror or error})",
                "make room or name another -o, and go on with --continue_prediction",
            ) from error


class SGNetPredictor(nnUNetPredictor):
    """nnU-Net's predictor, whose network may see whole images.

    Reading, preprocessing, folds and the resampling of masks are nnU-Net's; without an engine so is the
    sliding window. With 0 processes for preprocessing or export, a thread of this process does it while
    the network works on another case: on a CPU the network needs all cores, and each process takes
    seconds to start.

    Attributes:
        open_engine: Returns the network with the weights of all folds; None for nnU-Net's sliding window.
        engine: What it has returned.
        operating_point: Where masks are cut, or None for nnU-Net's own segmentation.
        on_case: Called for each case that is written.
    """

    open_engine: Callable[[], Engine | None] = staticmethod(lambda: None)
    engine: Engine | None = None
    operating_point: OperatingPoint | None = None
    on_case: Callable[[], object] = staticmethod(lambda: None)

    @property
    def setup(self) -> Setup:
        """What preprocessing and export need to know of the model."""
        return Setup(self.plans_manager, self.configuration_manager, self.dataset_json)

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (heads, z, y, x).

        Args:
            data: A preprocessed image, shape (channels, z, y, x).
        """
        if self.engine is None:
            return super().predict_logits_from_preprocessed_data(data)
        axes = self.allowed_mirroring_axes if self.use_mirroring else None
        engine = Mirrored(self.engine, axes) if axes else self.engine
        return torch.from_numpy(engine.logits(data.numpy().astype(np.float32, copy=False)))

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str | None] | None,
        output_filenames_truncated: list[str] | None,
        num_processes: int,
    ) -> Iterable[dict[str, Any]]:
        """Return an iterator over preprocessed cases, the next one at work while one is used."""
        nothing = [None] * len(input_list_of_lists)
        jobs = [
            CaseFiles(tuple(images), output, previous)
            for images, output, previous in zip(
                input_list_of_lists,
                output_filenames_truncated or nothing,
                seg_from_prev_stage_files or nothing,
                strict=True,
            )
        ]
        return ahead(partial(preprocess, setup=self.setup), jobs, processes=min(num_processes, len(jobs)))

    def predict_from_data_iterator(
        self,
        data_iterator: Iterable[dict[str, Any]],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = 0,
    ) -> None:
        """Predict and export each case of an iterator over preprocessed files.

        Args:
            data_iterator: nnU-Net's dictionaries `data`, `data_properties` and `ofile`.
            save_probabilities: Also write the `.npz` and `.pkl` that nnU-Net writes.
            num_processes_segmentation_export: Processes that resample and write; 0 for a thread.
        """
        # The first case is being read.
        self.engine = self.open_engine()
        processes = num_processes_segmentation_export
        writer = Writer(
            setup=self.setup,
            point=self.operating_point,
            save_probabilities=save_probabilities,
            # nnU-Net's 8, set for the whole process, would slow the network of the next case.
            threads=max(torch.get_num_threads() // max(processes, 1), 1),
        )
        with behind(processes=processes, on_done=self.on_case) as submit:
            for case in data_iterator:
                logits = self.predict_logits_from_preprocessed_data(data_of(case)).cpu().numpy()
                submit(writer.write_logits, logits, case["data_properties"], case["ofile"])
        empty_cache(self.device)


def data_of(case: dict[str, Any]) -> torch.Tensor:
    """Return a preprocessed image, which nnU-Net's workers hand over as a file if it is large."""
    data = case["data"]
    if isinstance(data, str):
        path = Path(data)
        data = np.load(path)
        path.unlink()
    return torch.as_tensor(data)


def load_for_prediction(model_folder: Path, options: PredictionOptions) -> SGNetPredictor:
    """Return the predictor of a model, as the options want it, its engine still to be opened.

    Args:
        model_folder: nnU-Net's folder of the training.
        options: How to predict.

    Raises:
        InputFileError: If weights are missing.
        SGNetError: If no fold is trained, or the device is not there.
    """
    device = torch.device(_device(options.device))
    folds = options.folds or _trained_folds(model_folder, options.checkpoint)
    for fold in folds:
        weights = model_folder / f"fold_{fold}" / options.checkpoint
        if not weights.is_file():
            raise InputFileError(
                weights, "there is no such file", "name a trained model, its -f and its -chk"
            )
    predictor = SGNetPredictor(
        tile_step_size=options.step_size,
        use_mirroring=options.mirroring,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    initialise(predictor, model_folder, folds, options.checkpoint)
    predictor.open_engine = partial(
        build_engine,
        predictor.network,
        predictor.list_of_parameters,
        requested=options.engine,
        runtime=options.runtime,
        precision=options.precision,
        device=device,
        max_memory=options.max_memory,
    )
    return predictor


def _trained_folds(model_folder: Path, checkpoint: str) -> tuple[str, ...]:
    """Return the numbered folds that have weights, else the fold `all`."""
    folds = sorted(
        path.parent.name.removeprefix("fold_") for path in model_folder.glob(f"fold_*/{checkpoint}")
    )
    if not folds:
        raise InputFileError(
            model_folder, f"holds no fold_*/{checkpoint}", "train the model, or name another -d, -tr, -p, -c"
        )
    return tuple(fold for fold in folds if fold != "all") or ("all",)


def _device(name: str | None) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        usable = " or ".join(device for device, usable in there.items() if usable)
        raise SGNetError(f"-device {name}: there is none here; give {usable}")
    return name


GPU_PROCESSES = 3
"""nnU-Net's own default of processes; beside a GPU they have cores to run on."""


def predict_folder(
    images: Path,
    output: Path,
    *,
    model_folder: Path,
    operating_point: OperatingPoint | None = None,
    options: PredictionOptions | None = None,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder, and return how many there are.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to.
        model_folder: nnU-Net's folder of the training.
        operating_point: Where to cut; None for nnU-Net's own segmentation.
        options: How to predict.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If weights or images are missing, an image cannot be read, or a mask not written.
        SGNetError: If the model, the device, the engine or the runtime cannot be used.
    """
    options = options or PredictionOptions()
    with prints_to_log():
        predictor = load_for_prediction(model_folder, options)
        predictor.operating_point, predictor.on_case = operating_point, on_done
        cases = cases_of_part(images, output, dataset=predictor.dataset_json, options=options)
        missing = [files for files, done in cases if not done]
        on_start(len(missing))
        processes = GPU_PROCESSES if predictor.device.type == "cuda" else 0
        preprocessing, export = options.preprocessing_processes, options.export_processes
        if missing:
            predictor.predict_from_files(
                [list(files.images) for files in missing],
                [files.output for files in missing],
                save_probabilities=options.save_probabilities,
                num_processes_preprocessing=processes if preprocessing is None else preprocessing,
                num_processes_segmentation_export=processes if export is None else export,
            )
    return len(cases)


def cases_of_part(
    images: Path, output: Path, *, dataset: dict[str, Any], options: PredictionOptions
) -> list[tuple[CaseFiles, bool]]:
    """Return the cases of this run's part, in nnU-Net's order, and whether each may stay as it is.

    Args:
        images: nnU-Net's folder of images.
        output: Folder of the masks.
        dataset: The content of the model's `dataset.json`.
        options: How to predict.

    Raises:
        InputFileError: If the folder has no case, or a case lacks a channel.
    """
    ending: str = dataset["file_ending"]
    found = find_cases(images, file_ending=ending, channels=len(dataset["channel_names"]))
    part = list(found.items())[options.part_id :: options.num_parts]
    endings = (ending, ".npz") if options.save_probabilities else (ending,)
    # nnU-Net makes the folder of the first output, which has none in a relative path such as "a".
    folder = output.absolute()
    return [
        (
            CaseFiles(tuple(map(str, paths)), str(folder / name)),
            options.continue_prediction and all((folder / f"{name}{end}").is_file() for end in endings),
        )
        for name, paths in part
    ]


SHARED = {
    "dataset.json": ("labels", "regions_class_order", "channel_names", "file_ending"),
    # Another reader may turn the axes another way.
    "plans.json": ("image_reader_writer",),
}
"""What the models must agree in, by file."""


def predict_with_models(
    images: Path,
    output: Path,
    *,
    model_folders: Sequence[Path],
    options: PredictionOptions,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder with the mean of several models, and return how many there are.

    The probabilities are averaged on the image's grid, as `nnUNetv2_ensemble` averages them, and go from
    one model to the next in memory.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to.
        model_folders: nnU-Net's folders of the trainings.
        options: How to predict, with each model.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If weights or images are missing, an image cannot be read, or a mask not written.
        SGNetError: If the models do not fit together, or one of them cannot be used.
    """
    if options.preprocessing_processes or options.export_processes:
        raise SGNetError("-npp and -nps are for one model; leave them out with several -m")
    check_alike(model_folders)
    with prints_to_log():
        predictors = [load_for_prediction(folder, options) for folder in model_folders]
        cases = cases_of_part(images, output, dataset=predictors[0].dataset_json, options=options)
        missing = [files for files, done in cases if not done]
        on_start(len(missing))
        output.mkdir(parents=True, exist_ok=True)
        _predict(predictors, missing, save_probabilities=options.save_probabilities, on_done=on_done)
    return len(cases)


def check_alike(model_folders: Sequence[Path]) -> None:
    """Check that models can be averaged.

    Raises:
        SGNetError: If they have other labels, channels, file endings or readers.
    """
    first, *others = model_folders
    for file, keys in SHARED.items():
        expected = read_json(first / file)
        for folder in others:
            said = read_json(folder / file)
            for key in keys:
                if said.get(key) != expected.get(key):
                    raise SGNetError(
                        f"{folder / file}: says {said.get(key)} for {key}, that of {first} "
                        f"{expected.get(key)}; average models of one data set"
                    )


class _Mean:
    """The probabilities of the case at hand, averaged as its models come; the last one writes it."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        self._total: NDArray[np.float32]

    def add(self, index: int, logits: NDArray[np.floating], case: dict[str, Any]) -> None:
        writer, properties = self._writers[index], case["data_properties"]
        probabilities = writer.probabilities(logits, properties)
        self._total = probabilities if index == 0 else self._total + probabilities
        if index == len(self._writers) - 1:
            writer.write_probabilities(self._total / len(self._writers), properties, case["ofile"])


def _predict(
    predictors: Sequence[SGNetPredictor],
    cases: Sequence[CaseFiles],
    *,
    save_probabilities: bool,
    on_done: Callable[[], object],
) -> None:
    setups = [predictor.setup for predictor in predictors]
    threads = torch.get_num_threads()
    mean = _Mean(
        [Writer(setup=setup, save_probabilities=save_probabilities, threads=threads) for setup in setups]
    )
    jobs = [(files, setup) for files in cases for setup in setups]
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done % len(setups) == 0:
            on_done()

    prepared = ahead(_preprocess, jobs)
    for predictor in predictors:
        predictor.engine = predictor.open_engine()
    with behind(on_done=count) as submit:
        for number, case in enumerate(prepared):
            index = number % len(predictors)
            logits = predictors[index].predict_logits_from_preprocessed_data(data_of(case)).cpu().numpy()
            submit(mean.add, index, logits, case)


def _preprocess(job: tuple[CaseFiles, Setup]) -> dict[str, Any]:
    files, setup = job
    return preprocess(files, setup=setup)
