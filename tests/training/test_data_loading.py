"""Fast loading changes the cost of a batch, not its content; patches around the network's false positives."""

import json
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

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.nnunet import replaced_data_loader
from sgnet_nnunet.training import base_trainer
from sgnet_nnunet.training.data_loading import (
    FastDataLoader,
    FastSpatialTransform,
    false_positives_of,
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


class TestOwnFalsePositives:
    @pytest.fixture
    def trainer(self, make_trainer):
        trainer = make_trainer(configuration={"own_false_positives": 0.25})
        trainer.initialize()
        trainer.own_false_positives.path.parent.mkdir(parents=True, exist_ok=True)
        trainer.own_false_positives.path.unlink(missing_ok=True)
        return trainer

    def test_components_without_a_labelled_voxel_are_found_at_their_centres(self):
        generator = np.random.default_rng(0)
        labels, predicted = np.full((8, 10, 12), -1), np.zeros((8, 10, 12), dtype=bool)
        labels[1:, 1:, 1:] = 0
        corner = generator.integers(1, 3, 3)
        predicted[tuple(slice(c, c + 3) for c in corner)] = True
        predicted[5:7, 7:9, 8:10] = True
        labels[6, 8, 9] = generator.integers(1, 3)  # of the second
        assert false_positives_of(predicted, labels) == [(corner + 1).tolist()]
        assert false_positives_of(np.zeros_like(predicted), labels) == []

    def test_half_of_the_free_patches_are_cut_around_them(self, trainer, monkeypatch):
        loader = trainer.get_dataloaders()[0].data_loader
        case, voxel = loader.indices[0], [9, 17, 18]
        centres = []

        def record(_, shape, force_fg, locations):
            centres.append(list(locations[1][0]) if force_fg and set(locations) == {1} else None)
            return [0, 0, 0], list(shape)

        monkeypatch.setattr(nnUNetDataLoader, "get_bbox", record)
        trainer.own_false_positives.path.write_text(
            json.dumps({"epoch": 5, "voxels": {case: [voxel], "x": [voxel]}})
        )
        seed_all(0)
        taken = []
        for _ in range(150):
            cases = loader.get_indices()
            for each in cases:
                loader.get_bbox((20, 40, 40), False, {2: [(0, 1, 1, 1)]})
                taken.append((each, centres.pop()))
        free, foreground = taken[::2], taken[1::2]
        assert {centre for _, centre in foreground} == {None}
        own = [(each, centre) for each, centre in free if centre is not None]
        assert all(found == (case, [0, *voxel]) for found in own)
        assert 0.35 < len(own) / len(free) < 0.65  # a quarter of all patches

    def test_the_false_positive_is_in_the_middle_of_the_patch(self, trainer, monkeypatch):
        loader = trainer.get_dataloaders()[0].data_loader
        monkeypatch.setattr(loader, "transforms", None)
        loader._centres = [[10, 20, 21]]
        loader.need_to_pad = np.full(3, 100)
        lower, upper = loader.get_bbox((20, 40, 40), False, None)
        assert [low + size // 2 for low, size in zip(lower, loader.patch_size, strict=True)] == [10, 20, 21]
        assert [end - low for low, end in zip(lower, upper, strict=True)] == list(loader.patch_size)

    def test_a_file_that_is_renewed_is_read_again(self, trainer):
        loader, own = trainer.get_dataloaders()[0].data_loader, trainer.own_false_positives
        loader.get_indices()
        assert loader._places == ()
        for epoch in (5, 10):
            own.path.write_text(json.dumps({"epoch": epoch, "voxels": {loader.indices[0]: [[epoch] * 3]}}))
            loader._changed = -1
            loader.get_indices()
            assert loader._places == [(loader.indices[0], [epoch] * 3)]
            assert own.epoch == epoch

    @pytest.mark.slow
    def test_a_training_finds_them_at_its_interval_and_trains_on_them(self, trainer):
        trainer.SEARCH_INTERVAL = 2
        own = trainer.own_false_positives
        own.path.write_text("{}")  # of an earlier training
        trainer.on_train_start()
        assert not own.path.exists()
        epochs = []
        for trainer.current_epoch in range(3):
            trainer.on_epoch_start()
            epochs.append(own.epoch)
            trainer.on_train_epoch_start()
            assert trainer.network.training
            assert trainer.sgnet.return_gates
            assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
        assert epochs == [0, 0, 2]
        assert set(json.loads(own.path.read_text())["voxels"]) == set(trainer.do_split()[0])

    def test_off_is_nnunets_choice_of_cases(self, loaders):
        fast, stock = loaders()
        assert fast.own_false_positives is None
        for seed in range(3):
            picked = []
            for loader in (fast, stock):
                seed_all(seed)
                picked.append(list(loader.get_indices()))
            assert picked[0] == picked[1]

    @pytest.mark.parametrize("share", [-0.1, 0.6, "many", None])
    def test_an_impossible_share_is_refused(self, make_trainer, share):
        trainer = make_trainer(configuration={"own_false_positives": share})
        with pytest.raises(SGNetError, match=f"plan nnUNetPlans: .*own_false_positives={share!r}"):
            trainer.own_false_positives  # noqa: B018
