from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from model.networks.layers import DepthwiseConv, PRelu


def pixels(*shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("gradient", [True, False])
def test_prelu_is_that_of_torch(gradient: bool) -> None:
    ours, theirs = PRelu(5), nn.PReLU(5)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.tensor([0.25, 0.0, -0.5, 1.0, 1.5]))
    x = pixels(3, 5, 4, 6)
    with torch.set_grad_enabled(gradient):
        torch.testing.assert_close(ours(x), theirs(x))


def test_the_gradients_of_prelu_are_those_of_torch() -> None:
    gradients = []
    for layer in (PRelu(5), nn.PReLU(5)):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.25, 0.0, -0.5, 1.0, 1.5]))
        x = pixels(3, 5, 4, 6)
        (layer(x) * torch.linspace(-1, 1, 360).view(3, 5, 4, 6)).sum().backward()
        gradients.append((x.grad, layer.weight.grad))
    (ours_x, ours_slope), (theirs_x, theirs_slope) = gradients
    torch.testing.assert_close(ours_x, theirs_x)
    torch.testing.assert_close(ours_slope, theirs_slope)


def test_prelu_in_bf16_keeps_its_slopes_in_float32() -> None:
    layer = PRelu(4)
    x = pixels(2, 4, 3, 3)
    y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    expected = x.detach().clamp(max=0).sum(dim=(0, 2, 3))
    torch.testing.assert_close(layer.weight.grad, expected, atol=0.05, rtol=0.02)


def test_one_slope_for_all_channels_has_the_gradient_of_torch() -> None:
    gradients = []
    for layer in (PRelu(1), nn.PReLU(1)):
        x = pixels(3, 5, 4, 6)
        (layer(x) * torch.linspace(-1, 1, 360).view(3, 5, 4, 6)).sum().backward()
        gradients.append((x.grad, layer.weight.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("gradient", [True, False])
def test_a_depthwise_convolution_is_that_of_torch(bias: bool, stride: int, side: int, gradient: bool) -> None:
    ours = DepthwiseConv(6, stride, bias=bias)
    theirs = nn.Conv2d(6, 6, 3, stride, 1, groups=6, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = pixels(2, 6, side, side)
        with torch.set_grad_enabled(gradient):
            y = layer(x)
        if gradient:
            y.square().sum().backward()
        results.append((y.detach(), x.grad, layer.weight.grad))
    for ours_value, theirs_value in zip(*results, strict=True):
        torch.testing.assert_close(ours_value, theirs_value, atol=1e-5, rtol=1e-4)
