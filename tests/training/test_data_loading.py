"""Fast loading changes the cost of a batch, not its content."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module  # noqa: N813

from sgnet_nnunet.nnunet import replaced_data_loader
from sgnet_nnunet.training import base_trainer
from sgnet_nnunet.training.data_loading import (
    FastDataLoader,
    FastSpatialTransform,
    use_fast_loading,
)

PATCH = (16, 32, 32)
BATCHES = 30


def spatial(**changes):
    settings = {"p_rotation": 1, "rotation": (-0.5, 0.5), "p_scaling": 1, "scaling": (0.7, 1.4)}
    settings |= {"p_synchronize_scaling_across_axes": 1, "border_mode_seg": "constant"}
    settings |= {"patch_center_dist_from_border": 0, "random_crop": False, "padding_value_seg": -1}
    return SpatialTransform(changes.pop("patch_size", PATCH), **settings | changes)


def seed_all(seed):
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
    torch.manual_seed(seed)


def batch(loader, seed):
    seed_all(seed)
    made = loader.generate_train_batch()
    target = made["target"]
    return made["keys"], made["data"], target[0] if isinstance(target, list) else target


@pytest.fixture
def loaders(make_trainer, monkeypatch):
    """Return nnU-Net's training loader and ours, of the same trainer."""

    def make(name="SGNetTrainer", **options):
        trainer = make_trainer(name, **options)
        trainer.initialize()
        fast = trainer.get_dataloaders()[0].data_loader
        monkeypatch.setattr(base_trainer, "use_fast_loading", lambda _: None)
        monkeypatch.setattr(base_trainer, "replaced_data_loader", lambda _: nullcontext())
        stock = trainer.get_dataloaders()[0].data_loader
        assert (type(fast), type(stock)) == (FastDataLoader, nnUNetDataLoader)
        return fast, stock

    return make


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "regions", "ignore"])
def test_the_same_random_numbers_give_nnunets_batches(loaders, kind):
    fast, stock = loaders(kind=kind)
    differing = voxels = 0
    for seed in range(BATCHES):
        keys, data, target = batch(fast, seed)
        stock_keys, stock_data, stock_target = batch(stock, seed)
        assert list(keys) == list(stock_keys)
        torch.testing.assert_close(data, stock_data, atol=1e-4, rtol=1e-4)
        differing += int((target != stock_target).sum())
        voxels += target.numel()
    assert differing <= 2e-5 * voxels


def test_the_notebooks_trainer_loads_as_nnunet_does(loaders):
    fast, stock = loaders("SGNetNotebookTrainer")
    for mine, theirs in zip(batch(fast, 0)[1:], batch(stock, 0)[1:], strict=True):
        assert torch.equal(mine, theirs)


def test_probabilities_and_ranges_of_the_augmentation_are_nnunets(loaders):
    fast, stock = (loader.transforms.transforms for loader in loaders())
    changed = {"padding_value_seg", "_grid_cache"}
    for key in vars(stock[0]).keys() - changed:
        assert getattr(fast[0], key) == getattr(stock[0], key), key
    assert [type(step) for step in fast[1:]] == [type(step) for step in stock[1:]]
    for mine, theirs in zip(fast[1:], stock[1:], strict=True):
        assert getattr(mine, "apply_probability", 1) == getattr(theirs, "apply_probability", 1)


def test_a_patch_that_is_not_turned_is_read_no_larger_than_itself(loaders):
    fast, stock = loaders()
    fast.transforms.transforms[0].p_rotation = fast.transforms.transforms[0].p_scaling = 0
    shape, locations = (40, 44, 36), {1: np.array([[0, 20, 20, 20]])}
    lower, upper = fast.get_bbox(shape, True, locations)
    assert tuple(np.subtract(upper, lower)) == PATCH
    whole_lower, whole_upper = stock.get_bbox(shape, True, locations)
    assert np.prod(np.subtract(whole_upper, whole_lower)) > 3 * np.prod(PATCH)


@pytest.mark.parametrize("lowest", [-1, 0])
@pytest.mark.parametrize("scaling", [(0.7, 0.7), (1.4, 1.4)])
def test_a_turned_patch_samples_the_same_from_its_box_as_from_the_whole(scaling, lowest):
    stock = spatial(scaling=scaling)
    fast = FastSpatialTransform.take_over(stock, keeps_outside=True)
    whole = (45, 51, 38)
    image = torch.rand(2, *whole)
    label = torch.full((1, *whole), lowest, dtype=torch.int16)
    label[:, :, 10:] = 0
    label[:, 15:30, 20:40, 5:25] = 1
    for seed in range(5):
        seed_all(seed)
        expected = stock(image=image, segmentation=label)
        seed_all(seed)
        lower, upper = fast.look_ahead(whole)
        part = (slice(None), *(slice(a, b) for a, b in zip(lower, upper, strict=True)))
        found = fast(image=image[part], segmentation=label[part])
        torch.testing.assert_close(found["image"], expected["image"], atol=1e-4, rtol=0)
        assert torch.equal(found["segmentation"], expected["segmentation"])
        assert set(found["segmentation"].unique().tolist()) <= {-1, 0, 1}
        assert (np.prod(upper - lower) < np.prod(whole)) or scaling[0] > 1


def test_outside_becomes_background_before_sampling_unless_a_normalisation_asks_for_it():
    for masks, label in ((False, 0), (True, -1)):
        others = [MaskImageTransform([0])] if masks else []
        pipeline = ComposeTransforms([spatial(), *others, RemoveLabelTransform(-1, 0)])
        use_fast_loading(pipeline)
        first = pipeline.transforms[0]
        assert isinstance(first, FastSpatialTransform)
        assert len(pipeline.transforms) == 1 + 2 * masks
        outside = torch.full((1, 8, 8, 8), -1, dtype=torch.int16)
        assert first(image=torch.rand(1, 8, 8, 8), segmentation=outside)["segmentation"].unique() == label


@pytest.mark.parametrize(
    "change", [{"p_elastic_deform": 0.2}, {"random_crop": True}, {"patch_size": (32, 32)}]
)
def test_what_a_box_of_corners_cannot_bound_is_left_to_nnunet(change):
    first = spatial(**change)
    pipeline = ComposeTransforms([first, RemoveLabelTransform(-1, 0)])
    use_fast_loading(pipeline)
    assert pipeline.transforms[0] is first
    assert len(pipeline.transforms) == 2


def test_nnunet_has_its_own_loader_again_even_after_an_error():
    def fail():
        with replaced_data_loader(FastDataLoader):
            assert trainer_module.nnUNetDataLoader is FastDataLoader
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert trainer_module.nnUNetDataLoader is nnUNetDataLoader
