"""Logits in, files of a case out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.preprocessing import Setup
from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.operating_point.apply import apply_operating_point
from sgnet_nnunet.operating_point.point import OperatingPoint


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
