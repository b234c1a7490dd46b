"""Small SG-Nets whose gates open in places, and images."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.evaluation.model_costs import with_costs
from sgnet_nnunet.evaluation.results import results_of_models
from sgnet_nnunet.evaluation.tuning import tune
from sgnet_nnunet.inference.export import export_openvino
from sgnet_nnunet.inference.exported import FILE_NAME
from sgnet_nnunet.inference.gate_maps import GatedModel
from sgnet_nnunet.inference.plan import read_plan
from sgnet_nnunet.inference.predictor import PredictionOptions, predict
from sgnet_nnunet.inference.runtimes import import_openvino
from sgnet_nnunet.inference.torch_engines import TorchRuntime, stage_models, stages_of
from sgnet_nnunet.networks.gates import HardSpatialGate
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.training.sgnet_trainer import SGNetNoGateTrainer

FEATURES = (4, 8, 8, 16)
CHECKPOINT = "checkpoint_final.pth"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def make_network():
    """Return a function that makes a network with statistics as after training."""

    def make(*, seed=0, features=FEATURES, gate="hard_spatial", open_share=0.3, heads=2, **options):
        torch.manual_seed(seed)
        options.setdefault("gate_kwargs", {"groups": 2} if gate != "none" else None)
        network = SGNet(2, heads, features_per_stage=features, gate=gate, **options)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.3, 0.3)
        network.eval()
        if gate == "hard_spatial":
            _open_gates(network, open_share)
        return network

    return make


def _open_gates(network, share):
    """Shift each gate's scores so that about a share of what it may admit is above the threshold."""
    image = _smooth_image(np.random.default_rng(1), (32, 32, 32))
    network.return_gates = True
    gates = [module for module in network.modules() if isinstance(module, HardSpatialGate)]
    for index, gate in enumerate(gates):
        with torch.inference_mode():
            score = network(torch.from_numpy(image[None])).decisions[index].score
        gate.score.bias.data -= torch.quantile(score.flatten(), 1 - share).item() - gate.score_threshold
    network.return_gates = False


def _smooth_image(rng, shape, channels=2):
    """Return an image, shape (channels, z, y, x), that varies over a few voxels."""
    coarse = torch.from_numpy(rng.random((1, channels, *(max(length // 6, 2) for length in shape))))
    image = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0].numpy()
    return (image + 0.2 * rng.random(image.shape)).astype(np.float32)


def _dense_logits(network, image):
    """Return the network's own logits of an image padded with zeros, shape (heads, z, y, x)."""
    padding = [(0, 0), *((0, -length % network.divisor) for length in image.shape[1:])]
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(np.pad(image, padding))[None])[0].numpy()
    return logits[:, : image.shape[1], : image.shape[2], : image.shape[3]]


def _torch_runtime(network):
    return TorchRuntime(stages_of(network), threads=2)


@pytest.fixture
def gated(make_network):
    network = make_network()
    return network.geometry, _torch_runtime(network)


@pytest.fixture
def smooth_image():
    return _smooth_image


@pytest.fixture
def dense_logits():
    return _dense_logits


@pytest.fixture
def torch_runtime():
    return _torch_runtime


KINDS = {
    "labels": {},
    "regions": {
        "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
        "regions_class_order": [1, 2],
    },
}
MODEL = "SGNetNoGateTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="session")
def models(tmp_path_factory, make_dataset, write_fingerprint):
    """Return the folder of each kind of model, two folds of it."""
    return {
        kind: write_model(tmp_path_factory.mktemp("nnunet"), options, make_dataset, write_fingerprint)
        for kind, options in KINDS.items()
    }


@pytest.fixture(scope="session")
def model(models):
    return models["labels"]


def write_model(root, options, make_dataset, write_fingerprint):
    folder = root / "nnUNet_results/Dataset501_Tiny" / MODEL
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        raw = make_dataset(root / "nnUNet_raw", cases=2, **options)
        write_fingerprint(root / "nnUNet_preprocessed/Dataset501_Tiny", cases=2)
        plans = SGNetPlanner(501).plan_experiment()
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 32, 32]
    for fold in range(2):
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint(plans, seed=fold), folder / f"fold_{fold}/checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    shutil.copy(raw / "dataset.json", folder)
    return folder


def checkpoint(plans, *, seed):
    torch.manual_seed(seed)
    manager = PlansManager(plans)
    network = SGNetNoGateTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 2, 2, enable_deep_supervision=False
    )
    with torch.no_grad():
        # An untrained network says the same everywhere: louder, and about as often one thing as the other.
        network.head.weight *= 100
        network.head.bias -= network.eval()(torch.rand(1, 2, 16, 32, 32))[0].flatten(1).median(dim=1).values
    return {
        "trainer_name": "SGNetNoGateTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": network.state_dict(),
    }


@pytest.fixture(scope="session")
def gated_model(model, make_network, tmp_path_factory):
    """Return the folder of a model with gates that are open in places, one fold of it."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("gated") / "model")
    shutil.rmtree(folder / "fold_1")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] = {
        "features_per_stage": FEATURES,
        "gate_kwargs": {"groups": 2},
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    path = folder / "fold_0/checkpoint_final.pth"
    content = {**torch.load(path, weights_only=False), "trainer_name": "SGNetTrainer"}
    torch.save(content | {"network_weights": make_network().state_dict()}, path)
    return folder


@pytest.fixture(scope="session")
def foreign(model, tmp_path_factory):
    """Return a model whose plan resamples as nnU-Net's default does."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("foreign") / "model")
    plans = json.loads((folder / "plans.json").read_text())
    options = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    for what in ("data", "probabilities"):
        plans["configurations"]["3d_fullres"] |= {
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape",
            f"resampling_fn_{what}_kwargs": options,
        }
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


@pytest.fixture(scope="session")
def exported_model(gated_model, tmp_path_factory):
    """Return the folder of that model for OpenVINO."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_openvino(gated_model, folder, folds=["0"])
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Return a folder of two cases, the second with thick slices and turned axes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    turned = np.array([[0, 0, -2.5, 9], [-0.9, 0, 0, 30], [0, 1.1, 0, -5], [0, 0, 0, 1.0]])
    for name, shape, affine in [("a", (36, 34, 20), np.eye(4)), ("b", (38, 34, 12), turned)]:
        for channel in range(2):
            data = np.zeros(shape, dtype=np.int16)
            data[2:-2, 2:-2, 1:-1] = rng.normal(
                300, 30, size=[n - d for n, d in zip(shape, (4, 4, 2), strict=True)]
            )
            data[8:14, 10:16, 4:8] += 400
            write_volume(folder / f"{name}_{channel:04d}.nii.gz", Volume(data, affine))
    return folder


TURNED = np.array([[0, 0, -2.5, 9], [-0.9, 0, 0, 30], [0, 1.1, 0, -5], [0, 0, 0, 1.0]])
PLAN_KINDS = {
    "labels": {},
    "classes": {"labels": {"background": 0, "necrosis": 1, "oedema": 2, "tumour": 3}},
    "regions": {
        "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
        "regions_class_order": [1, 2],
    },
}


def write_plan(folder, *, top=None, configuration=None, dataset=None):
    """Write the two files of a model, with some of their values replaced."""
    resampling = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    settings = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16, 32, 32],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["PercentileTo01Normalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_torch_fornnunet",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        **(configuration or {}),
    }
    statistics = {"mean": 300.0, "std": 50.0, "percentile_00_5": 100.0, "percentile_99_5": 700.0}
    plans = {
        "dataset_name": "Dataset501_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": settings},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
        **(top or {}),
    }
    description = {
        "channel_names": {"0": "T1ce", "1": "FLAIR"},
        "labels": {"background": 0, "whole_tumor": 1},
        "numTraining": 8,
        "file_ending": ".nii.gz",
        **(dataset or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def make_model(tmp_path):
    """Return a function that writes a model's folder and returns it."""
    return lambda **changes: write_plan(tmp_path / "model", **changes)


@pytest.fixture
def make_plan(make_model):
    """Return a function that returns a plan as read here, and nnU-Net's manager of it."""

    def make(**changes):
        plan = read_plan(make_model(**changes), "3d_fullres")
        return plan, PlansManager(plan.plans)

    return make


@pytest.fixture(params=PLAN_KINDS)
def kind(request):
    """Return what a kind of labels changes in `dataset.json`."""
    return PLAN_KINDS[request.param]


@pytest.fixture
def turned():
    """Return an affine whose axes are turned, with thick slices."""
    return TURNED.copy()


@pytest.fixture
def make_case(tmp_path):
    """Return a function that writes a scan to the folder `images` and returns its files."""
    return lambda name, **options: write_case(tmp_path / "images", name, **options)


@pytest.fixture(scope="session")
def pool():
    """Return where channels are worked on."""
    with ThreadPoolExecutor(2) as executor:
        yield executor


def write_case(folder, name, *, shape=(24, 22, 14), affine=None, channels=2, seed=0):
    """Write a scan: a bright ball with holes in a background of zeros."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    corners = np.stack(np.meshgrid(*[np.linspace(-1.15, 1.05, n) for n in shape], indexing="ij"))
    ball = (corners**2).sum(axis=0) < 1
    files = []
    for channel in range(channels):
        data = np.where(ball, rng.normal(300, 60, shape), 0).astype(np.int16)
        data[tuple(n // 2 for n in shape)] = 900
        data[tuple(slice(n // 2 - 4, n // 2 - 2) for n in shape)] = 0
        files.append(folder / f"{name}_{channel:04d}.nii.gz")
        write_volume(files[-1], Volume(data, np.eye(4) if affine is None else affine))
    return files


@pytest.fixture(scope="session")
def write_export():
    """Return a function that writes networks, by their fold, as an exported model without a plan."""

    def write(folder, networks, *, mirroring_axes=()):
        content = {
            "format": "sgnet export",
            "version": 1,
            "model": "Dataset501/SGNetTrainer__nnUNetPlans__3d_fullres",
            "configuration": "3d_fullres",
            "background_head": True,
            "mirroring_axes": list(mirroring_axes),
            "folds": {fold: network.geometry.as_dict() for fold, network in networks.items()},
        }
        (folder / FILE_NAME).write_text(json.dumps(content))
        for fold, network in networks.items():
            for name, model in stage_models(network).items():
                path = folder / f"fold_{fold}" / f"{name}.xml"
                import_openvino().save_model(model, str(path), compress_to_fp16=False)
        return folder

    return write


@pytest.fixture(scope="session")
def study(gated_model, make_results, tmp_path_factory):
    """Return nnU-Net's three folders of a data set on which that model is trained, two folds of it."""
    root = tmp_path_factory.mktemp("study")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir()
    make_results(root, models=("SGNetTrainer",), cases=2, folds=2)
    folder = root / "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"
    shutil.copy(gated_model / "plans.json", folder)
    for fold in range(2):
        shutil.copy(gated_model / f"fold_0/{CHECKPOINT}", folder / f"fold_{fold}")
    return root


@pytest.fixture
def commands(study, tmp_path, nnunet_folders):
    """Return each command that loads a model as a function, and a copy of the model that they load."""
    root = shutil.copytree(study, tmp_path / "study")
    with nnunet_folders(root):
        yield Commands(root / "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres", root)


@pytest.fixture(scope="module")
def shared_commands(study, tmp_path_factory, nnunet_folders):
    """Return the same for tests that restore what they change."""
    root = shutil.copytree(study, tmp_path_factory.mktemp("doors") / "study")
    with nnunet_folders(root):
        yield Commands(root / "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres", root)


class Commands:
    """What the commands do with a model's folder, as functions of it."""

    def __init__(self, folder, root):
        self.folder, self.root, self.images = folder, root, root / "nnUNet_raw/Dataset501_Tiny/imagesTr"

    def arguments(self, command, output):
        """Return the arguments with which a command of the command line loads the model."""
        model, images, output = map(str, (self.folder, self.images, output))
        return {
            "predict": ["-i", images, "-o", output, "-m", model],
            "export": [model, "-o", output],
            "gates": [model, "-i", images, "-o", output],
            "tune": ["-d", "501", "-o", f"{output}.json"],
            "compare": [
                *("--models", "SGNetTrainer", "-f", "0", "-o", output),
                *("--no-gates", "--time-cases", "0"),
            ],
        }[command]

    def predict(self, *, trust=False, **options):
        options = PredictionOptions(device="cpu", folds=("0",), trust=trust, **options)
        return predict(self.images, self.root / "masks", model_folders=[self.folder], options=options)

    def average(self, *, trust=False):
        options = PredictionOptions(device="cpu", trust=trust)
        return predict(self.images, self.root / "masks", model_folders=[self.folder] * 2, options=options)

    def tiled(self, *, trust=False):
        return self.predict(trust=trust, engine="tiled")

    def export(self, *, trust=False):
        return export_openvino(self.folder, self.root / "openvino", folds=["0"], trust=trust)

    def gates(self, *, trust=False):
        return GatedModel(self.folder, trust=trust)

    def tune(self, *, trust=False):
        options = PredictionOptions(device="cpu", trust=trust)
        return tune("501", model=self.folder.name, folds=("0", "1"), options=options)

    def compare(self, *, trust=False):
        """Warn of what the others refuse: masks are evaluated without the model."""
        results = results_of_models("501", ["SGNetTrainer"], ["0", "1"])
        found = with_costs(
            replace(results, trust=trust), self.root / "nnUNet_preprocessed/Dataset501_Tiny", time_cases=0
        )
        return found.models[0].parameters
