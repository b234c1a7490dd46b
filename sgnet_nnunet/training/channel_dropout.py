"""Channel (modality) dropout: training patches without a channel, and the accuracy that is lost without it.

A channel that is left out is 0 everywhere after normalisation, in training and in prediction.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn
from numpy.typing import NDArray
from torch import Tensor

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import write_json

RESULT_FILE = "channel_dropout.json"
"""Name of the file of scores in a fold's folder `validation`."""

Probabilities = dict[str, Annotated[float, msgspec.Meta(ge=0, lt=1)]]

Scores = dict[str, tuple[float, float]]
"""Dice of each case's foreground with all channels, and without one; NaN where there is none to find."""


def dropout_of_plan(planned: object, channels: Sequence[str]) -> dict[int, float]:
    """Return the probabilities with which training patches lose a channel, by the channel's number.

    Args:
        planned: The plan's `channel_dropout`, probabilities by the name of a channel.
        channels: Names of all channels, in order.

    Raises:
        SGNetError: If the setting is something else, or leaves no channel that is always there.
    """
    try:
        given = msgspec.convert(planned, Probabilities)
    except msgspec.ValidationError as error:
        raise SGNetError(f"channel_dropout={planned!r}: {error}; correct the plan") from error
    dropped = {number: given[name] for number, name in enumerate(channels) if given.get(name)}
    if not set(given) <= set(channels) or len(dropped) == len(channels):
        some = f"must name some of the channels {', '.join(channels)}, not all"
        raise SGNetError(f"channel_dropout={planned!r}: {some}; correct the plan")
    return dropped


def drop_channels(batch: Tensor, probabilities: Mapping[int, float]) -> None:
    """Set channels of patches, shape (patches, channels, ...), to 0, each with its own probability.

    For patches after the augmentation, which would add noise. Draws from NumPy's global generator, as
    nnU-Net's loaders do.
    """
    for channel, probability in probabilities.items():
        batch[np.random.random(len(batch)) < probability, channel] = 0  # noqa: NPY002


def score_cases(
    cases: Sequence[str],
    load_case: Callable[[str], tuple[Any, ...]],
    segment: Callable[[NDArray[np.float32]], NDArray[np.bool_]],
    *,
    channel: int,
    ignore_label: int | None,
) -> Scores:
    """Return the scores of preprocessed cases with and without a channel.

    Args:
        cases: Names of the cases.
        load_case: nnU-Net's, which returns image and labels, both (channels, z, y, x), and more.
        segment: Returns the foreground (z, y, x) of an image.
        channel: Number of the channel that is left out.
        ignore_label: Label of voxels that do not count.
    """
    scores = {}
    for case in cases:
        data, segmentation, *_ = load_case(case)
        image, labels = np.array(data[:], dtype=np.float32), np.asarray(segmentation[0])
        ignored = np.isin(labels, [] if ignore_label is None else [ignore_label])
        with_all = _dice(labels > 0, segment(image), ignored)
        image[channel] = 0
        scores[case] = with_all, _dice(labels > 0, segment(image), ignored)
    return scores


def _dice(reference: NDArray[np.bool_], predicted: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> float:
    tp, fp, fn, _ = map(int, compute_tp_fp_fn_tn(reference, predicted, ignored))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan")


def mean_scores(scores: Scores) -> tuple[float, float]:
    """Return the means over the cases that have both Dice; NaN without such cases."""
    table = np.array([pair for pair in scores.values() if np.isfinite(pair).all()])
    return (float(table[:, 0].mean()), float(table[:, 1].mean())) if len(table) else (np.nan, np.nan)


def write_scores(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write the scores and their means, by the name of the channel that is left out; NaN is null."""

    def figures(with_all: float, without: float) -> dict[str, float | None]:
        values = {"dice": with_all, "dice_without": without, "loss": with_all - without}
        return {key: None if np.isnan(value) else value for key, value in values.items()}

    left_out = {
        name: {
            "mean": figures(*mean_scores(cases)),
            "per_case": {case: figures(*pair) for case, pair in cases.items()},
        }
        for name, cases in scores.items()
    }
    definition = "Dice of the foreground on the network's grid, without mirroring; the channel left out is 0"
    write_json(path, {"definition": definition, "left_out": left_out})
