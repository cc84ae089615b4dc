"""Drop-in replacements for layers that are slow on a CPU in PyTorch. Their results are the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _FastPRelu(torch.autograd.Function):
    """PReLU from operations that vectorise in bf16: PyTorch's own gradient takes several times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        slope = slope.to(x.dtype).view(1, -1, 1, 1)
        ctx.save_for_backward(x, slope)
        return torch.lerp(x.relu(), x, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        (gradient,) = gradients
        positive = torch.ops.aten.threshold_backward(gradient, x, 0)
        negative = gradient - positive
        products = (negative * x).permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        # A matrix product accumulates in float32 and is far faster than sum().
        slope_gradient = (products.new_ones(1, len(products)) @ products).view(-1).float()
        if slope.numel() == 1:
            slope_gradient = slope_gradient.sum(dim=0, keepdim=True)
        return positive.addcmul_(negative, slope), slope_gradient


class PRelu(nn.PReLU):
    """``max(x, 0) + slope * min(x, 0)`` with a slope per channel or a shared one (He et al. 2015, arXiv 1502.01852)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``, float [B, C, H, W]."""
        if not self.training:
            return functional.prelu(x, self.weight.to(x.dtype))
        result: Tensor = _FastPRelu.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return result


class DepthwiseConv(nn.Conv2d):
    """A 3x3 filter per channel that keeps or halves the map.

    PyTorch's bf16 gradient of a strided depthwise convolution takes some ten times as long as computing it without a
    stride and keeping every second result; both give the same numbers.
    """

    def __init__(self, channels: int, stride: int, *, bias: bool = False) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """From float [B, C, H, W] to [B, C, ceil(H / stride), ceil(W / stride)]."""
        if self.stride == (1, 1) or not self.training:
            return super().forward(x)
        full = functional.conv2d(x, self.weight, self.bias, padding=1, groups=self.groups)
        return full[:, :, :: self.stride[0], :: self.stride[1]].contiguous(memory_format=torch.channels_last)
