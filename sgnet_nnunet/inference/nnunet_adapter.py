"""nnU-Net's own processing and sliding window, for plans and networks that need them.

`NnunetProcessing` is for plans that the torch-free pre- and postprocessing does not reproduce (other
resamplings, preprocessors or normalisations, 2D), `TiledEngine` for networks that cannot be run on a whole
image.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.operating_point import OperatingPoint, apply_operating_point
from sgnet_nnunet.inference.predictor import Prediction
from sgnet_nnunet.inference.preprocessing import Prepared
from sgnet_nnunet.inference.trained_model import TrainedModel


class TiledEngine:
    """nnU-Net's sliding window over the networks of all folds, as an engine.

    The window's step is in patches; with mirroring, each tile is run up to 8
    times, and the logits are averaged.
    """

    def __init__(
        self, trained: TrainedModel, *, device: torch.device, step_size: float = 0.5, mirroring: bool = False
    ) -> None:
        self.channels = len(trained.description.channels)
        self.heads = trained.description.labels.heads
        self.predictor = nnUNetPredictor(
            tile_step_size=step_size,
            use_mirroring=mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        plans = PlansManager(trained.description.plans)
        self.predictor.manual_initialization(
            trained.network,
            plans,
            plans.get_configuration(trained.configuration),
            [dict(weights) for weights in trained.weights],
            trained.description.dataset,
            trained.trainer,
            trained.mirroring_axes or None,
        )

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the folds' logits, shape (heads, z, y, x); see `Engine.logits`."""
        logits = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
        return logits.float().cpu().numpy()


class NnunetProcessing:
    """nnU-Net's own preprocessing, resampling and segmentation, of logits of the type given.

    Raises:
        InputFileError: If the configuration is the second stage of a cascade.
    """

    def __init__(self, trained: TrainedModel, *, logits_type: type[np.floating] = np.float32) -> None:
        self.logits_type = logits_type
        self.dataset = trained.description.dataset
        self.optional_channels = trained.description.optional_channels
        self.plans = PlansManager(trained.description.plans)
        self.configuration = self.plans.get_configuration(trained.configuration)
        self.labels = self.plans.get_label_manager(self.dataset)
        if self.configuration.previous_stage_name is not None:
            raise InputFileError(
                trained.folder / "plans.json",
                f"{trained.configuration} is the second stage of a cascade",
                "predict it with nnUNetv2_predict -prev_stage_predictions",
            )

    def prepare(
        self,
        channels: Sequence[NDArray[np.float32]],
        properties: dict[str, Any],
        *,
        pool: Executor,  # noqa: ARG002
    ) -> Prepared:
        """Return a case that has been read, preprocessed by nnU-Net; see `preprocessing.prepare`."""
        missing = [channel for channel in sorted(self.optional_channels) if not channels[channel].any()]
        # No voxel of another channel's copy is new to the non-zero mask, and it can be normalised.
        present = channels[next(iter(set(range(len(channels))).difference(missing)))]
        given = [present if channel in missing else each for channel, each in enumerate(channels)]
        image, _, properties = self.configuration.preprocessor_class(verbose=False).run_case_npy(
            np.stack(given), None, dict(properties), self.plans, self.configuration, self.dataset
        )
        prepared = np.asarray(image, dtype=np.float32)
        prepared[missing] = 0
        return Prepared(prepared, properties)

    def probabilities(self, logits: NDArray[np.float32], properties: dict[str, Any]) -> NDArray[np.float32]:
        """Return probabilities on the image's grid, shape (heads, z, y, x)."""
        _, probabilities = self._convert(logits, properties, return_probabilities=True)
        return np.asarray(probabilities)

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
        if point is None and not with_probabilities:
            return self._convert(logits, properties, return_probabilities=False), None
        probabilities = self.probabilities(logits, properties)
        if point is None:
            mask = np.asarray(self.labels.convert_probabilities_to_segmentation(probabilities))
        else:
            spacing = tuple(properties["spacing"])
            mask = apply_operating_point(probabilities, point, self.labels, spacing, scene=scene)
        return mask, probabilities if with_probabilities else None

    def _convert(
        self, logits: NDArray[np.float32], properties: dict[str, Any], *, return_probabilities: bool
    ) -> Any:  # noqa: ANN401 - nnU-Net returns one thing or another
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.astype(self.logits_type, copy=False),
            self.plans,
            self.configuration,
            self.labels,
            properties,
            return_probabilities=return_probabilities,
            # nnU-Net's 8, set for the whole process, would slow the network of the next case.
            num_threads_torch=torch.get_num_threads(),
        )
