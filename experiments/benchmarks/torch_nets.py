"""ResNets and projectors in PyTorch, with the same layers as `caco_jax.nets`.

Imported only where PyTorch is installed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _Block(nn.Module):
    """A residual block of (features, kernel, stride) convolutions."""

    def __init__(
        self, inputs: int, layers: Sequence[tuple[int, int, int]], stride: int
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        width = inputs
        for features, kernel, step in layers:
            parts += [*_conv(width, features, kernel, step), nn.ReLU(inplace=True)]
            width = features
        self.residual = nn.Sequential(*parts[:-1])
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(*_conv(inputs, width, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.residual(x) + self.downsample(x))


def _conv(inputs: int, features: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, features, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(features)]


def resnet(
    *, stage_sizes: Sequence[int], block: str, width: int, stem: str
) -> tuple[nn.Module, int]:
    """A network of images [N, 3, H, W], and its number of features.

    Args:
        stage_sizes: blocks in each stage.
        block: "basic" or "bottleneck".
        width: channels of the first stage.
        stem: "imagenet" or "small".
    """
    kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
    parts = [*_conv(3, width, kernel, stride), nn.ReLU(inplace=True)]
    if stem == "imagenet":
        parts.append(nn.MaxPool2d(3, 2, 1))
    inputs = width
    for stage, blocks in enumerate(stage_sizes):
        features = width * 2**stage
        for index in range(blocks):
            stride = 2 if stage and not index else 1
            layers = [(features, 3, stride), (features, 3, 1)]
            if block == "bottleneck":
                layers = [
                    (features, 1, 1),
                    (features, 3, stride),
                    (4 * features, 1, 1),
                ]
            parts.append(_Block(inputs, layers, stride))
            inputs = layers[-1][0]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


def projector(inputs: int, widths: Sequence[int], *, norm: bool) -> nn.Module:
    """Linear layers, with a ReLU and optional BatchNorm between them."""
    parts: list[nn.Module] = []
    for index, width in enumerate(widths):
        if index:
            parts += [nn.BatchNorm1d(inputs)] if norm else []
            parts.append(nn.ReLU(inplace=True))
        parts.append(nn.Linear(inputs, width, bias=not norm))
        inputs = width
    return nn.Sequential(*parts)


def encoder(network: dict[str, Any], widths: Sequence[int], *, norm: bool) -> nn.Module:
    """Images [N, 3, H, W] -> embeddings [N, widths[-1]], not normalised."""
    backbone, features = resnet(**network)
    return nn.Sequential(backbone, projector(features, widths, norm=norm))
