"""nnU-Net's preprocessing of a folder of images, in this process."""

import zlib
from typing import Any

from nibabel.filebasedimages import ImageFileError
from nnunetv2.inference.data_iterators import PreprocessAdapter

from sgnet_nnunet.errors import InputFileError

_READ_ERRORS = (OSError, EOFError, RuntimeError, AssertionError, zlib.error, ImageFileError)


class PreprocessingHere(PreprocessAdapter):
    """nnU-Net's iterator over preprocessed cases, which names the case that cannot be read."""

    def generate_train_batch(self) -> dict[str, Any]:
        """Return the next case.

        Raises:
            InputFileError: If a file of the case is damaged, or its channels do not fit together.
        """
        following = self.current_position or 0
        try:
            batch: dict[str, Any] = super().generate_train_batch()
        except _READ_ERRORS as error:
            files = self._data[following][0]
            detail = " ".join(str(error).split()) or type(error).__name__
            raise InputFileError(
                files[0],
                f"this file or another channel of the case cannot be read ({detail})",
                "copy it again, and go on with --continue_prediction",
            ) from error
        return batch
