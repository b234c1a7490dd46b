"""nnU-Net's preprocessing of one case."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nnunetv2.inference.data_iterators import PreprocessAdapter
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from sgnet_nnunet.errors import InputFileError

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
