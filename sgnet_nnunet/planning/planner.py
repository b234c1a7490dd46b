"""The experiment planner of SG-Net: a fixed configuration in nnU-Net's plan format."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.networks.gates import GateSupervision
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nnunet import DEFAULT_CONFIGURATION, changed_folds, dataset_name, nnunet_folder
from sgnet_nnunet.planning.normalization import PercentileNormalization, PercentileTo01Normalization


class SGNetPlanner(ExperimentPlanner):
    """Plan SG-Net for any 3D data set: 1 mm isotropic, patches of 32 x 96 x 96, batches of 4.

    Spacing, patch and batch are those of the SG-Net README (its 96 x 96 x 32 is x, y, z; nnU-Net orders z, y,
    x). Nothing depends on the GPU, so `-gpu_memory_target` has no effect; `-overwrite_target_spacing` is
    honoured. The plan holds one configuration, `3d_fullres`, and is called `nnUNetPlans` unless
    `-overwrite_plans_name` says otherwise, so that `nnUNetv2_train` needs no `-p`.
    """

    NORMALIZATION: type[PercentileNormalization] = PercentileTo01Normalization
    """Normalisation of every channel, that of the SG-Net README."""

    TARGET_SPACING = (1.0, 1.0, 1.0)
    PATCH_SIZE = (32, 96, 96)
    BATCH_SIZE = 4
    SUPERVISION = ("positive_weight", "auxiliary_weight", "warm_up")  # the others are off where not given
    FALSE_POSITIVE_WEIGHT = 0.5  # of the Tversky loss; with 0.5 it is the Dice loss

    def __init__(self, dataset_name_or_id: str | int, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        # Where they have changed, nnU-Net ends with an AssertionError without a message.
        if error := changed_folds(dataset_name(str(dataset_name_or_id))):
            raise error
        super().__init__(dataset_name_or_id, *args, **kwargs)

    def _refuse_to_overwrite(self) -> None:
        """Keep a plan of another planner, or of this one with the normalisation of an earlier version."""
        path = self._preprocessed / f"{self.plans_identifier}.json"
        if not path.is_file():
            return
        plans, own = read_json(path), type(self).__name__
        planner = plans.get("experiment_planner_used", own)
        former = plans.get("configurations", {}).get(DEFAULT_CONFIGURATION, {})
        present = zip(
            ("normalization_schemes", "use_mask_for_norm"),
            self.determine_normalization_scheme_and_whether_mask_is_used_for_norm(),
            strict=True,
        )
        changed = any(former.get(key, value) != value for key, value in present)
        if planner != own or changed:
            what = " with another normalisation" if planner == own else ""
            raise SGNetError(
                f"{path}: holds a plan made by {planner}{what}; add `-overwrite_plans_name SGNetPlans` "
                "(and train with `-p SGNetPlans`), or delete that plan and its preprocessed folder"
            )

    @property
    def _preprocessed(self) -> Path:
        return nnunet_folder("nnUNet_preprocessed") / self.dataset_name

    def determine_fullres_target_spacing(self) -> NDArray[np.float64]:
        """Return the spacing to work at, in mm, in the axis order of the images (z, y, x)."""
        return np.array(self.overwrite_target_spacing or self.TARGET_SPACING, dtype=float)

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """Return the identity: the thin side of the patch lies along z, whatever the spacing."""
        return [0, 1, 2], [0, 1, 2]

    def determine_normalization_scheme_and_whether_mask_is_used_for_norm(
        self,
    ) -> tuple[list[str], list[bool]]:
        """Return `NORMALIZATION` within the non-zero mask for every channel.

        nnU-Net's rule, a mask only where cropping leaves less than three quarters of an image, would count
        the zeros around a stripped brain that fills its field of view.
        """
        channels = len(self.dataset_json["channel_names"])
        return [self.NORMALIZATION.__name__] * channels, [True] * channels

    def architecture(self) -> dict[str, Any]:
        """Return the network's import path and arguments; `gate` is the name of its gate."""
        labels = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        return {
            "network_class_name": f"{SGNet.__module__}.{SGNet.__name__}",
            "arch_kwargs": {
                "features_per_stage": [16, 32, 64, 128],
                "gate": "hard_spatial",
                "gate_kwargs": {
                    "groups": 4,
                    "combine": "max",
                    "threshold": 0.5,
                    "dilation": 1,
                    "nested": True,
                    "detached": False,
                },
                "gated_levels": [0, 1, 2],
                # With regions every head is a foreground.
                "background_head": not labels.has_regions,
                "background_logit": -8.0,
                "deep_supervision": False,
            },
            "_kw_requires_import": [],
        }

    def configuration(
        self, spacing: NDArray[np.float64], median_shape: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Return the plan's configuration for a spacing, in mm, and the median shape, in voxels, z, y, x."""
        schemes, use_mask = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        # nnU-Net's torch resampling, linear along every axis.
        resampling = {"force_separate_z": False, "memefficient_seg_resampling": False}
        kinds = {"data": False, "seg": True, "probabilities": False}
        supervision = asdict(GateSupervision())
        return {
            "data_identifier": self.generate_data_identifier(DEFAULT_CONFIGURATION),
            "preprocessor_name": self.preprocessor_name,
            "batch_size": self.BATCH_SIZE,
            "patch_size": list(self.PATCH_SIZE),
            "median_image_size_in_voxels": median_shape,
            "spacing": spacing,
            "normalization_schemes": schemes,
            "use_mask_for_norm": use_mask,
            **{f"resampling_fn_{kind}": resample_torch_fornnunet.__name__ for kind in kinds},
            **{
                f"resampling_fn_{kind}_kwargs": {"is_seg": is_seg, **resampling}
                for kind, is_seg in kinds.items()
            },
            "architecture": self.architecture(),
            "gate_supervision": {name: supervision[name] for name in self.SUPERVISION},
            # Most patches hold no tumour, and the Dice of an empty patch has no gradient.
            "batch_dice": True,
            "false_positive_weight": self.FALSE_POSITIVE_WEIGHT,
        }

    def plan_experiment(self) -> dict[str, Any]:
        """Write the plan and return it.

        Raises:
            SGNetError: If another planner's plan, or one with another normalisation, has that name, the
                images are 2D, or the fingerprint is old.
        """
        self._refuse_to_overwrite()
        spacing, fingerprint = self.determine_fullres_target_spacing(), self.dataset_fingerprint
        spacings, shapes = fingerprint["spacings"], fingerprint["shapes_after_crop"]
        if len(shapes) != len(self.dataset):
            problem = f"was made of {len(shapes)} cases, the data set has {len(self.dataset)}"
            raise InputFileError(self._preprocessed / "dataset_fingerprint.json", problem, "add --clean")
        median_shape = np.median(
            [compute_new_shape(shape, old, spacing) for old, shape in zip(spacings, shapes, strict=True)],
            axis=0,
        )
        if median_shape[0] == 1:
            raise SGNetError(
                f"{self.dataset_name}: the images are 2D, SG-Net is 3D; plan with `-pl ExperimentPlanner`"
            )
        forward, backward = self.determine_transpose()
        intensities = "foreground_intensity_properties_per_channel"
        self.plans = {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_identifier,
            "original_median_spacing_after_transp": np.median(spacings, axis=0),
            "original_median_shape_after_transp": np.median(shapes, axis=0).astype(int),
            "image_reader_writer": self.determine_reader_writer().__name__,
            "transpose_forward": forward,
            "transpose_backward": backward,
            "configurations": {DEFAULT_CONFIGURATION: self.configuration(spacing, median_shape)},
            "experiment_planner_used": type(self).__name__,
            "label_manager": "LabelManager",
            intensities: fingerprint[intensities],
        }
        shutil.copy(Path(self.raw_dataset_folder, "dataset.json"), self._preprocessed / "dataset.json")
        self.save_plans(self.plans)
        return self.plans


class SGNetUnclippedPlanner(SGNetPlanner):
    """Plan as `SGNetPlanner` does, but scale by the same percentiles without clipping."""

    NORMALIZATION = PercentileNormalization


class SGNetFlairDropoutPlanner(SGNetPlanner):
    """Plan as `SGNetPlanner` does, and train a network that can do without FLAIR (modality dropout).

    This package's trainers leave FLAIR out of a training patch with a probability of `FLAIR_DROPOUT`.
    """

    FLAIR_DROPOUT = 0.25

    def configuration(
        self, spacing: NDArray[np.float64], median_shape: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Return the plan's configuration with `channel_dropout`; data without FLAIR are an SGNetError."""
        names = list(self.dataset_json["channel_names"].values())
        flair = [name for name in names if "flair" in name.casefold()]
        if not flair or len(flair) == len(names):
            raise SGNetError(
                f"{self.dataset_name}: has the channels {', '.join(names)}; {type(self).__name__} requires "
                "FLAIR and another one: plan with `-pl SGNetPlanner`"
            )
        dropout = {"channel_dropout": dict.fromkeys(flair, self.FLAIR_DROPOUT)}
        return super().configuration(spacing, median_shape) | dropout


class SGNetNotebookPlanner(SGNetPlanner):
    """Former name of `SGNetPlanner`, from when that did not clip."""
