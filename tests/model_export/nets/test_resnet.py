"""The networks, against the paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model_export.nets.resnet import IMAGENET_BLOCKS, Bottleneck, ResNet, ZeroPad, build, cifar_resnet, resnet
from service.runtime.model_card import Architecture, Shortcut, Variant
from tests.model_export.parameter_counts import CIFAR_PARAMETERS, IMAGENET_PARAMETERS

GMACS = {  # option B at 224x224: v1, v1.5
    (18, "v1.5"): 1.814,
    (34, "v1.5"): 3.664,
    (50, "v1"): 3.858,
    (50, "v1.5"): 4.089,
    (101, "v1"): 7.570,
    (101, "v1.5"): 7.801,
    (152, "v1"): 11.282,
    (152, "v1.5"): 11.514,
}


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def multiply_adds(net: ResNet, size: int) -> int:
    """Multiply-adds of the convolutions and the linear layer for one square image of `size` pixels."""
    total = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        total += output[0].numel() * weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    net.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize("depth", IMAGENET_PARAMETERS)
@pytest.mark.parametrize(("shortcut", "column"), [(None, 0), ("A", 0), ("B", 1), ("C", 2)])
def test_parameter_counts(depth: int, shortcut: Shortcut | None, column: int) -> None:
    with torch.device("meta"):
        assert count(resnet(depth, shortcut=shortcut)) == IMAGENET_PARAMETERS[depth][column]


@pytest.mark.parametrize("depth", CIFAR_PARAMETERS)
def test_cifar_parameter_counts(depth: int) -> None:
    with torch.device("meta"):
        assert count(cifar_resnet(depth)) == CIFAR_PARAMETERS[depth]


@pytest.mark.parametrize(("depth", "variant"), GMACS)
def test_multiply_adds(depth: int, variant: Variant) -> None:
    with torch.device("meta"):
        net = resnet(depth, variant=variant)
    assert round(multiply_adds(net, 224) / 1e9, 3) == GMACS[depth, variant]


@pytest.mark.parametrize("depth", IMAGENET_BLOCKS)
def test_depth_is_the_number_of_weighted_layers(depth: int) -> None:
    with torch.device("meta"):
        net = resnet(depth, shortcut="A")  # no projections to count
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == depth


@pytest.mark.parametrize("depth", [20, 110])
def test_cifar_depth_is_the_number_of_weighted_layers(depth: int) -> None:
    with torch.device("meta"):
        net = cifar_resnet(depth)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in net.modules()) == depth


def test_shapes_of_the_imagenet_nets() -> None:
    with torch.device("meta"), torch.inference_mode():
        net = resnet(50).eval()
        assert net.features(torch.zeros(2, 3, 224, 224)).shape == (2, 2048, 7, 7)
        assert net(torch.zeros(2, 3, 256, 320)).shape == (2, 1000)  # fully convolutional up to the pooling


def test_shapes_of_the_cifar_nets() -> None:
    with torch.device("meta"), torch.inference_mode():
        net = cifar_resnet(20).eval()
        assert net.features(torch.zeros(2, 3, 32, 32)).shape == (2, 64, 8, 8)
        assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_v1_strides_in_the_first_1x1_and_v15_in_the_3x3() -> None:
    for variant, strides in (("v1", (2, 1)), ("v1.5", (1, 2))):
        with torch.device("meta"):
            block = resnet(50, variant=variant).get_submodule("layer2.0")  # type: ignore[arg-type]
        assert isinstance(block, Bottleneck)
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


def test_v1_and_v15_share_names_and_shapes_but_not_answers() -> None:
    torch.manual_seed(0)
    v1, v15 = resnet(50, variant="v1").eval(), resnet(50, variant="v1.5").eval()
    v15.load_state_dict(v1.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(v1(x), v15(x), rtol=0.01)


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        names = resnet(50).state_dict().keys()
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer4.2.bn3.bias",
        "fc.weight",
        "fc.bias",
    } <= names
    assert "layer1.1.downsample.0.weight" not in names  # option B projects only where shapes change


def test_option_a_subsamples_and_pads_with_zeros() -> None:
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).view(1, 2, 4, 4)
    out = ZeroPad(2, 5, stride=2)(x)
    assert out.shape == (1, 5, 2, 2)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert not out[:, 2:].any()


def test_a_block_adds_its_input_and_a_plain_block_does_not() -> None:
    x = torch.rand(1, 64, 8, 8)
    for shortcut, expected in (("B", x), (None, torch.zeros_like(x))):
        block = resnet(18, shortcut=shortcut).get_submodule("layer1.0").eval()  # type: ignore[arg-type]
        for parameter in block.parameters():
            nn.init.zeros_(parameter)  # F(x) = 0, so that the block is relu(x) or relu(0)
        with torch.inference_mode():
            assert torch.equal(block(x), expected)


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    conv = resnet(34).get_submodule("layer3.1.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert conv.bias is None


def test_1202_layers_run() -> None:
    net = cifar_resnet(1202).eval()
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(depth=34, shortcut=None, num_classes=7),
        Architecture(depth=50, variant="v1", shortcut="A"),
        Architecture(depth=20, family="cifar", shortcut="A", num_classes=10),
    ],
)
def test_build_records_what_it_built(architecture: Architecture) -> None:
    with torch.device("meta"):
        assert build(architecture).architecture == architecture


def test_stages_are_named_as_in_table_1() -> None:
    net = resnet(18, num_classes=2)
    assert net.modules_up_to("stem") == [net.conv1, net.bn1]
    assert net.modules_up_to("conv3") == [net.conv1, net.bn1, net.layer1, net.layer2]
    last = {name for part in net.modules_up_to("conv5") for name, _ in part.named_parameters()}
    assert not any(name.startswith("fc") for name in last)
    with pytest.raises(ValueError, match="resnet8-cifar has no conv5: the last stage is conv4"):
        cifar_resnet(8).modules_up_to("conv5")


def test_depths_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="no ImageNet ResNet has depth 19: choose from 18, 34"):
        resnet(19)
    for depth in (2, 21):
        with pytest.raises(ValueError, match=f"6n\\+2 .* not {depth}"):
            cifar_resnet(depth)
