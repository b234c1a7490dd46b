"""Predicting a folder of images with several models, whose probabilities are averaged."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.load import load_for_prediction
from sgnet_nnunet.inference.options import PredictionOptions
from sgnet_nnunet.inference.pipeline import ahead, behind
from sgnet_nnunet.inference.predict import cases_of_part
from sgnet_nnunet.inference.predictor import SGNetPredictor, data_of
from sgnet_nnunet.inference.preprocessing import CaseFiles, Setup, preprocess
from sgnet_nnunet.inference.prints import prints_to_log
from sgnet_nnunet.inference.writing import Writer
from sgnet_nnunet.io.json_object import read_json

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
