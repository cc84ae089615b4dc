"""Networks with random weights, for speed only: buffalo_l's IResNet-50 and SCRFD-10G, facenet-pytorch's encoder.

    python -m benchmarks.peers.services.networks models

The running statistics of the batch norms are measured on noise, so that activations stay in the range of a trained
network (neither denormal nor infinite) and no layer can be folded away. As published, IResNet-50 takes 6.3 G
multiply-adds per face, and SCRFD-10G has 4.23 M parameters and takes 10 G at 640x480.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate

from benchmarks.peers.services.serving import INCEPTION, IRESNET50, SCRFD10G
from benchmarks.peers.services.torchvision_stub import InceptionResnetV1


class Block(nn.Module):
    """BN - conv3x3 - BN - PReLU - conv3x3 (stride) - BN, and the shortcut."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, planes, 3, 1, 1, bias=False),
            nn.BatchNorm2d(planes),
            nn.PReLU(planes),
            nn.Conv2d(planes, planes, 3, stride, 1, bias=False),
            nn.BatchNorm2d(planes),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or before != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, before, H, W] to [N, planes, H / stride, W / stride]."""
        total: torch.Tensor = self.body(x) + self.shortcut(x)
        return total


def iresnet50() -> nn.Sequential:
    """112x112 RGB in, 512 dimensions out; every stage halves the side: 112 -> 56, 28, 14, 7."""
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    before = 64
    for planes, blocks in zip((64, 128, 256, 512), (3, 4, 14, 3), strict=True):
        for number in range(blocks):
            parts.append(Block(before, planes, 2 if number == 0 else 1))
            before = planes
    parts += [nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)]
    return nn.Sequential(*parts)


def _conv(before: int, planes: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU())


class Basic(nn.Module):
    """ResNet's basic block; a strided shortcut is an average pool before its 1x1 convolution (ResNet-D)."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(before, planes, stride), _conv(planes, planes)[:2])
        self.shortcut = nn.Sequential()
        if stride != 1 or before != planes:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride != 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv2d(before, planes, 1, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, before, H, W] to [N, planes, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Scrfd(nn.Module):
    """Backbone with a deep stem, path aggregation neck, and a head of three convolutions per stride."""

    def __init__(self) -> None:
        super().__init__()
        stem = [_conv(3, 28, 2), _conv(28, 28), _conv(28, 56), nn.MaxPool2d(3, 2, 1)]
        stages, before = [], 56
        for number, (planes, blocks) in enumerate(((56, 3), (88, 4), (88, 2), (224, 3))):
            first = Basic(before, planes, 2 if number else 1)
            stages.append(nn.Sequential(first, *(Basic(planes, planes, 1) for _ in range(blocks - 1))))
            before = planes
        self.stem, self.stages = nn.Sequential(*stem), nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(planes, 56, 1) for planes in (88, 88, 224))
        self.smooth = nn.ModuleList(nn.Conv2d(56, 56, 3, 1, 1) for _ in range(3))
        self.down = nn.ModuleList(nn.Conv2d(56, 56, 3, 2, 1) for _ in range(2))
        self.out = nn.ModuleList(nn.Conv2d(56, 56, 3, 1, 1) for _ in range(2))
        self.towers = nn.ModuleList(nn.Sequential(_conv(56, 80), _conv(80, 80), _conv(80, 80)) for _ in range(3))
        # Two anchors, each with a score, four distances and ten coordinates.
        heads = [[nn.Conv2d(80, 2 * n, 3, 1, 1) for n in (1, 4, 10)] for _ in range(3)]
        self.heads = nn.ModuleList(nn.ModuleList(own) for own in heads)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Scores, boxes and points at strides 8, 16 and 32, each [N, anchors x numbers]."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        maps = [lateral(x) for lateral, x in zip(self.lateral, found[1:], strict=True)]
        for i in (1, 0):
            maps[i] = maps[i] + interpolate(maps[i + 1], scale_factor=2.0, mode="nearest")
        maps = [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]
        for i in (0, 1):
            maps[i + 1] = maps[i + 1] + self.down[i](maps[i])
        maps = [maps[0], self.out[0](maps[1]), self.out[1](maps[2])]
        answers: list[torch.Tensor] = []
        for x, tower, heads in zip(maps, self.towers, self.heads, strict=True):
            assert isinstance(heads, nn.ModuleList)
            y = tower(x)
            score, box, points = (head(y).permute(0, 2, 3, 1).flatten(1) for head in heads)
            answers += [score.sigmoid(), box, points]
        return tuple(answers)


def settle(net: nn.Module, side: int) -> None:
    """Random scales and shifts, and running statistics measured on noise; leaves the network in eval mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
            module.momentum = None
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(8, 3, side, side) * 2 - 1)
    net.eval()


def export(net: nn.Module, side: int, outputs: list[str], path: Path) -> None:
    """Writes ONNX with a free batch dimension."""
    axes = {name: {0: "batch"} for name in ["input", *outputs]}
    example = (torch.zeros(1, 3, side, side),)
    named: dict[str, list[str]] = {"input_names": ["input"], "output_names": outputs}
    torch.onnx.export(net, example, path, **named, dynamic_axes=axes, opset_version=17, dynamo=False)  # type: ignore[arg-type]


def main(directory: Path) -> None:
    """Writes the three networks, unless they exist."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if not (directory / IRESNET50).is_file():
        encoder = iresnet50()
        settle(encoder, 112)
        export(encoder, 112, ["embedding"], directory / IRESNET50)
    if not (directory / SCRFD10G).is_file():
        detector = Scrfd()
        settle(detector, 160)
        names = [f"{what}{stride}" for stride in (8, 16, 32) for what in ("score", "box", "points")]
        export(detector, 640, names, directory / SCRFD10G)
    if not (directory / INCEPTION).is_file():
        inception = InceptionResnetV1(pretrained=None)
        settle(inception, 160)
        torch.save(inception.state_dict(), directory / INCEPTION)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
