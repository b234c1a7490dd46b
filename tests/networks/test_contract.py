"""The contract of every network: one line a network."""

import io
import shutil
from functools import partial

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sgnet_nnunet.inference.export import export_onnx
from sgnet_nnunet.networks.baselines import build_attention_unet, build_unet
from sgnet_nnunet.networks.sgnet import GatedOutput, SGNet

LOSS_SCALE = 2.0**16
"""PyTorch's GradScaler starts with it."""


@pytest.fixture
def process_group(tmp_path):
    """Return the process group of one process, as a run with one GPU has it."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def loss_of(network, image):
    """Return a scalar that depends on all that the network is trained on."""
    if not hasattr(network, "return_gates"):
        return network(image).float().square().mean()
    network.return_gates = True
    output = network(image)
    network.return_gates = False
    return sum(tensor.float().square().mean() for tensor in tensors_of(output))


def tensors_of(output):
    scores = [decision.score for decision in output.decisions if decision.score is not None]
    return (output.logits, *scores, *output.auxiliary_logits)


def train_in_half_precision(network, image, steps=8):
    """Return the loss of each step, and the loss scale after them."""
    device = image.device.type
    optimizer, scaler = torch.optim.AdamW(network.parameters()), torch.GradScaler(device)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.float16):
            losses.append(loss_of(network, image))
        scaler.scale(losses[-1]).backward()
        scaler.step(optimizer)
        scaler.update()
    return losses, scaler.get_scale()


class BiasApart(nn.Module):
    """A convolution whose bias is added on its own, so that the compiler fuses it with what follows.

    So it does on a GPU, and what is fused is not rounded to half precision in between.
    """

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution
        self.bias = convolution.bias
        convolution.bias = None

    def forward(self, feature):
        feature = self.convolution(feature)
        return feature + self.bias.to(feature.dtype).view(1, -1, 1, 1, 1)


def set_biases_apart(network):
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (nn.Conv3d, nn.ConvTranspose3d)):
                setattr(module, name, BiasApart(child))


NETWORKS = {
    # 668,673 of the released, ungated network, and 236 of the three gates.
    "SGNet": (668_909, SGNet),
    # 65 and 33 more for the heads at 1/4 and 1/2.
    "SGNet, deep supervision": (669_007, partial(SGNet, deep_supervision=True)),
    "SGNet, skip gates": (668_797, partial(SGNet, gate="straight_through")),
    "SGNet, soft gates": (668_797, partial(SGNet, gate="soft")),
    "SGNet, no gate": (668_673, partial(SGNet, gate="none")),
    "U-Net": (1_979_177, build_unet),
    "ResU-Net": (4_806_398, partial(build_unet, residual_units=2)),
    "Attention U-Net": (5_909_545, build_attention_unet),
}
"""The parameters with two channels in and one class out, and how to build each network."""

every_network = pytest.mark.parametrize("name", NETWORKS)
distinct_networks = pytest.mark.parametrize(
    "name", ["SGNet", "SGNet, skip gates", "ResU-Net", "Attention U-Net"]
)
"""The networks that have all layers between them."""

SMALLEST = (1, 2, 16, 16, 32)
"""The smallest batch that leaves the norms of the baselines' coarsest level more than one voxel."""


def build(name, channels=2, heads=2):
    torch.manual_seed(0)
    return NETWORKS[name][1](channels, heads)


@pytest.mark.slow
@every_network
def test_parameter_count_is_the_published_one(name):
    assert sum(p.numel() for p in build(name, 2, 1).parameters()) == NETWORKS[name][0]


@every_network
@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (4, 3)])
def test_output_has_one_channel_a_head_on_the_grid_of_the_image(name, channels, heads):
    logits = build(name, channels, heads).eval()(torch.rand(1, channels, 16, 32, 48))
    assert logits.shape == (1, heads, 16, 32, 48)


@every_network
def test_every_parameter_gets_a_finite_gradient(name):
    network = build(name)
    loss_of(network, torch.rand(2, 2, 16, 32, 32)).backward()
    missing = [
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert missing == []


@every_network
def test_saved_weights_give_the_same_output(name):
    image, network, copy = torch.rand(SMALLEST), build(name).eval(), build(name).eval()
    torch.nn.init.normal_(next(network.parameters()))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    copy.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(network(image), copy(image))


@pytest.mark.slow
@every_network
@pytest.mark.usefixtures("process_group")
def test_distributed_training_gives_the_same_gradients(name):
    image, network = torch.rand(2, *SMALLEST[1:]), build(name)
    wrapped = DistributedDataParallel(network)
    if hasattr(network, "return_gates"):
        network.return_gates = True
        output = wrapped(image)
        assert isinstance(output, GatedOutput)
        loss = sum(tensor.square().mean() for tensor in tensors_of(output))
    else:
        loss = wrapped(image).square().mean()
    loss.backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    loss_of(network, image).backward()
    for mine, theirs in zip(gradients, network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@distinct_networks
def test_half_precision_gives_finite_logits_and_scaled_gradients(name):
    network = build(name)
    with torch.autocast("cpu", dtype=torch.float16):  # what a T4 trains in
        loss = loss_of(network, torch.rand(1, 2, 16, 32, 32))
        assert network(torch.rand(SMALLEST)).dtype == torch.float16
    assert loss.isfinite()
    (LOSS_SCALE * loss).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
@distinct_networks
def test_compiled_network_gives_the_same_output(name):
    network, image = build(name).eval(), torch.rand(SMALLEST)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), network(image), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@distinct_networks
def test_onnx_file_gives_the_same_output_at_any_size(name, tmp_path):
    path = tmp_path / "network.onnx"
    assert export_onnx(build(name), path, input_channels=2) < 1e-4
    assert list(tmp_path.iterdir()) == [path]


@every_network
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_compiled_for_cuda_it_trains_in_half_precision(name):
    network, image = build(name).cuda(), torch.rand(4, 2, 32, 96, 96, device="cuda")  # the plan's batch
    network.compile()
    losses, scale = train_in_half_precision(network, image)
    assert losses[-1] < losses[0]
    assert scale >= LOSS_SCALE / 4  # it may leave out a step to find its scale
    network.eval()
    with torch.inference_mode(), torch.autocast("cuda"):
        logits = network(image).cpu()
    expected = network.cpu().forward(image.cpu())
    # A gate's score may lie so close to its threshold that rounding decides.
    assert torch.isclose(logits.float(), expected, rtol=0.02, atol=0.02).float().mean() > 0.99


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_gates_learn_in_half_precision_where_the_compiler_fuses_as_for_a_gpu():
    torch.manual_seed(0)
    network = SGNet(2, 2, features_per_stage=(8, 16))
    set_biases_apart(network)
    network.compile()
    losses, _ = train_in_half_precision(network, torch.rand(1, 2, 8, 8, 8), steps=32)
    assert losses[-1] < losses[0] / 2
