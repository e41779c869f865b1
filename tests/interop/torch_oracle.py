"""torchvision's ResNet in a page of PyTorch, for the tests that compare with it."""

import importlib
import os
import sys

import pytest


def require(package):
    """A package of the extra "torch": without it a test skips, or fails in CI.

    CI installs PyTorch for Python 3.11, in which it has a small build.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        pass
    if os.environ.get("CI") and sys.version_info[:2] == (3, 11):
        pytest.fail(f"{package} is not installed, and CI tests against it on 3.11")
    return pytest.skip(f"no {package} here: pip install 'caco_jax[torch]'")


def require_torch():
    """PyTorch, as `require` says."""
    return require("torch")


def _block(torch, inputs, features, stride, expansion):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            wide = features * expansion
            layers = [(features, 3, stride), (features, 3, 1)]
            if expansion > 1:
                layers = [(features, 1, 1), (features, 3, stride), (wide, 1, 1)]
            self.layers, width = len(layers), inputs
            for i, (out, kernel, step) in enumerate(layers, start=1):
                conv = nn.Conv2d(width, out, kernel, step, kernel // 2, bias=False)
                setattr(self, f"conv{i}", conv)
                setattr(self, f"bn{i}", nn.BatchNorm2d(out))
                width = out
            self.downsample = None
            if stride != 1 or inputs != wide:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, wide, 1, stride, bias=False),
                    nn.BatchNorm2d(wide),
                )

        def forward(self, x):
            y = x
            for i in range(1, self.layers + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = torch.relu(y) if i < self.layers else y
            return torch.relu(y + (self.downsample(x) if self.downsample else x))

    return Block()


def head_layers(torch, inputs, widths, *, norm):
    """A projector: norm and no biases as CaCo's, or biases and no norm as MoCo's."""
    layers = []
    for i, width in enumerate(widths):
        layers.append(torch.nn.Linear(inputs, width, bias=not norm))
        if i < len(widths) - 1:
            layers += [torch.nn.BatchNorm1d(width)] if norm else []
            layers.append(torch.nn.ReLU())
        inputs = width
    return torch.nn.Sequential(*layers)


def resnet(torch, stage_sizes, *, expansion=1, width=64, stem="imagenet", channels=3):
    """A ResNet whose modules have torchvision's names; its ``fc`` is the identity."""
    nn = torch.nn

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
            self.conv1 = nn.Conv2d(
                channels, width, kernel, stride, kernel // 2, bias=False
            )
            self.bn1 = nn.BatchNorm2d(width)
            inputs = width
            for stage, blocks in enumerate(stage_sizes):
                features, made = width * 2**stage, []
                for i in range(blocks):
                    stride = 2 if stage and not i else 1
                    made.append(_block(torch, inputs, features, stride, expansion))
                    inputs = features * expansion
                setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
            self.outputs, self.fc = inputs, nn.Identity()

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            if stem == "imagenet":
                x = nn.functional.max_pool2d(x, 3, 2, 1)
            for stage in range(len(stage_sizes)):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.fc(x.mean(dim=(2, 3)))

    return ResNet()


def randomise(torch, module, seed=0):
    """Fills parameters and statistics, so that no two can be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("running_var", "bn1.weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dtype.is_floating_point:
                fan_in = max(tensor[0].numel(), 1)
                tensor.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    return module.eval()
