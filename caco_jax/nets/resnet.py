"""Residual networks with torchvision's semantics, channels last.

`resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152` are the ImageNet
networks; with ``stem="small"`` they are the common ones for 32x32 images. `resnet_tiny`
and `resnet8` are for 16x16 images on a CPU.

Fast on a CPU are 3x3 convolutions of 8x8 and 4x4 pixels; `resnet8` has no others.
GFLOP/s of XLA's on two cores that had other work too, for 256 images:

| pixels, channels | forward | gradients |
|---|---|---|
| 16x16, 32 to 32 | 89 | 26 |
| 8x8, 32 to 32 | 145 | 40 |
| 4x4, 64 to 64 | 118 | 77 |
| 4x4, 128 to 128 | 87 | 71 |
| 4x4, 64 to 128, stride 2 | 97 | 6 |
| 2x2, 128 to 128 | 3 | 6 |

At 16x16 there is four times the work of 8x8, and its gradients are slow. At 2x2 most of
what a kernel reads is padding: a last stage without a stride does four times the
arithmetic of one with it, in a third of the time.

On a CPU, keep the backward pass out of `jax.lax.scan` and `jax.lax.cond`: XLA brings
only the convolutions of the outermost computation into the form that its fast kernels
take, and a step inside runs some twenty times slower (jax-ml/jax issue 12868).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from caco_jax.nets.activation import relu
from caco_jax.nets.norm import CLEAN, BatchNorm

T = TypeVar("T")

# Beyond it, devices would send more for the moments of inputs, a matrix of them, than
# they move less.
_FOLDED_AT_MOST = 512

# "He-normal": keeps the variance of the gradient through a ReLU layer.
_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class _Layers(nn.Module):
    """Settings of every part of the network: the norm and the dtypes."""

    norm: Callable[..., nn.Module] = BatchNorm
    fold_batchnorm: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def conv(self, features: int, kernel: int, stride: int, name: str) -> nn.Module:
        """A convolution padded by (kernel - 1) / 2 on each side.

        "SAME" would pad stride-2 layers on one side only, unlike the papers' networks.
        """
        return nn.Conv(
            features,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=False,
            kernel_init=_he_normal,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )

    def normalise(
        self,
        x: jax.Array,
        train: bool,
        branch: str,
        name: str,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> jax.Array:
        """Applies a norm of this name in the given branch."""
        norm = self.norm(
            dtype=self.dtype, param_dtype=self.param_dtype, name=name, **options
        )
        return norm(x, train=train, branch=branch, **arguments)

    def normalised_conv(
        self,
        x: jax.Array,
        layer: tuple[int, int, int],
        train: bool,
        branch: str,
        names: tuple[str, str],
        **options: Any,
    ) -> jax.Array:
        """A convolution of (features, kernel, stride) and its norm, as one if asked."""
        features, size, stride = layer
        channels = x.shape[-1]
        fold = self.fold_batchnorm and size == 1 and channels <= _FOLDED_AT_MOST
        if fold and features > channels:
            shape = (channels, features)
            kernel = _Kernel(shape, self.param_dtype, name=names[0])()
            x = x[:, ::stride, ::stride].astype(self.dtype or x.dtype)
            given = {"kernel": kernel}
        else:
            x = self.conv(features, size, stride, names[0])(x)
            given = {}
        return self.normalise(x, train, branch, names[1], given, **options)


class _Kernel(nn.Module):
    """The parameter of a 1x1 convolution, for who multiplies by it."""

    shape: tuple[int, int]
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self) -> jax.Array:
        """[C, D]."""
        shape = (1, 1, *self.shape)
        return self.param("kernel", _he_normal, shape, self.param_dtype)[0, 0]


class _Block(_Layers):
    """A residual block; subclasses define its residual branch."""

    features: int = 64
    stride: int = 1
    zero_init_residual: bool = False
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, branch: str) -> jax.Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, expansion * features]."""
        y, width = x, self.features * self.expansion
        layers = self.layers()
        for i, layer in enumerate(layers, start=1):
            zero = self.zero_init_residual and i == len(layers)
            scale = nn.initializers.zeros if zero else nn.initializers.ones
            names = (f"conv{i}", f"bn{i}")
            y = self.normalised_conv(y, layer, train, branch, names, scale_init=scale)
            y = relu(y) if i < len(layers) else y
        if x.shape[-1] != width or self.stride != 1:
            layer = (width, 1, self.stride)
            names = ("downsample_conv", "downsample_bn")
            x = self.normalised_conv(x, layer, train, branch, names)
        return relu(x + y)

    def layers(self) -> Sequence[tuple[int, int, int]]:
        """(features, kernel, stride) of each convolution of the residual branch."""
        raise NotImplementedError


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    def layers(self) -> Sequence[tuple[int, int, int]]:  # noqa: D102
        return (self.features, 3, self.stride), (self.features, 3, 1)


class BottleneckBlock(_Block):
    """1x1, 3x3, 1x1 to four times the width; the 3x3 has the stride ("v1.5")."""

    expansion = 4

    def layers(self) -> Sequence[tuple[int, int, int]]:  # noqa: D102
        wide = self.features * self.expansion
        return (self.features, 1, 1), (self.features, 3, self.stride), (wide, 1, 1)


# The kernel and stride of a stem's convolution.
STEMS = {"imagenet": (7, 2), "small": (3, 1), "strided": (3, 2)}
_BLOCKS: dict[str, type[_Block]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


class _Stage(_Layers):
    """Blocks of one width; the first one has the stride."""

    block: type[_Block] = BasicBlock
    blocks: int = 1
    features: int = 64
    stride: int = 1
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, branch: str) -> jax.Array:
        """[N, H, W, C] -> [N, H / stride, W / stride, expansion * features]."""
        for i in range(self.blocks):
            x = self.block(
                norm=self.norm,
                fold_batchnorm=self.fold_batchnorm,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                features=self.features,
                stride=self.stride if i == 0 else 1,
                zero_init_residual=self.zero_init_residual,
                name=f"block{i}",
            )(x, train, branch)
        return x


class ResNet(_Layers):
    """A residual network that ends in the spatial mean.

    Attributes:
        stage_sizes: blocks in each stage; stage i has ``width * 2**i`` channels (times
            four for bottleneck blocks).
        strides: stride of each stage; None: 1 for the first, 2 for the others.
        block: "basic" or "bottleneck".
        width: channels of the stem and of the first stage.
        stem: "imagenet" is a 7x7 convolution and a max-pool, together of stride 4;
            "small" is a 3x3 convolution of stride 1, for images of 32x32 or less;
            "strided" is one of stride 2, a quarter of the work behind it.
        zero_init_residual: start every block as the identity, by a zero last scale.
        remat: keep the activations between stages only, and recompute the rest in
            the backward pass: less memory, about a third more computation.
        fold_batchnorm: join BatchNorm with 1x1 convolutions that widen and with the
            stem's pooling, see `BatchNorm`: equal in exact arithmetic, with less memory
            traffic on accelerators.
        norm: constructor of a norm; set options by, for example,
            `functools.partial(BatchNorm, group_size=32)`.
        dtype: dtype of the computation; None: promoted from images and parameters.
        param_dtype: of the parameters.

    References:
        He et al. 2015, arXiv:1512.03385; Goyal et al. 2017, arXiv:1706.02677, for the
        stride on the 3x3 and the zero last scale.
    """

    stage_sizes: Sequence[int] = (2, 2, 2, 2)
    strides: Sequence[int] | None = None
    block: Literal["basic", "bottleneck"] = "basic"
    width: int = 64
    stem: Literal["imagenet", "small", "strided"] = "imagenet"
    zero_init_residual: bool = False
    remat: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], *, train: bool, branch: str = CLEAN
    ) -> Float[Array, "n f"]:
        """Features of each image.

        Args:
            images: [N, H, W, C] floats.
            train: whether the norms use and record the statistics of this batch.
            branch: which branch of the norms, "clean" or "adversarial".

        Returns:
            [N, F] features, at least float32.

        Raises:
            ValueError: `images` is not of rank 4 or is empty, or an attribute is not
                one of the above.
            TypeError: `images` does not hold floats.
        """
        check_images(images)
        x = self._stem(images, train, branch)
        # Static: train and branch, arguments 2 and 3 counting self.
        stage = nn.remat(_Stage, static_argnums=(2, 3)) if self.remat else _Stage
        for i, (blocks, stride) in enumerate(self._stages()):
            x = stage(
                norm=self.norm,
                fold_batchnorm=self.fold_batchnorm,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                block=_choose("block", self.block, _BLOCKS),
                blocks=blocks,
                features=self.width * 2**i,
                stride=stride,
                zero_init_residual=self.zero_init_residual,
                name=f"layer{i + 1}",
            )(x, train, branch)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(axis=(1, 2))

    def _stages(self) -> list[tuple[int, int]]:
        """(blocks, stride) of each stage."""
        sizes, strides = self.stage_sizes, self.strides
        if strides is None:
            strides = [1 if i == 0 else 2 for i in range(len(sizes))]
        if len(strides) != len(sizes):
            raise ValueError(
                f"ResNet: expected a stride for each of the stages {tuple(sizes)}, got "
                f"{tuple(strides)}"
            )
        return list(zip(sizes, strides, strict=True))

    def _stem(self, images: jax.Array, train: bool, branch: str) -> jax.Array:
        kernel, stride = _choose("stem", self.stem, STEMS)
        x = self.conv(self.width, kernel, stride, "conv1")(images)
        if self.stem != "imagenet":
            return relu(self.normalise(x, train, branch, "bn1"))
        if self.fold_batchnorm:
            return relu(self.normalise(x, train, branch, "bn1", {"pool": _max_pool}))
        return _max_pool(relu(self.normalise(x, train, branch, "bn1")))


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def check_images(images: jax.Array) -> None:
    """Checks that `images` is a batch of floating-point images.

    Raises:
        ValueError: it is not of rank 4, or has no entries.
        TypeError: it does not hold floats.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            "images: expected a non-empty [N, height, width, channels] array, got "
            f"shape {tuple(images.shape)}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images: expected floats, got {images.dtype} of shape "
            f"{tuple(images.shape)}: scale the pixels first"
        )


def _choose(field: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise ValueError(
            f"ResNet: {field}: expected one of {sorted(table)}, got {name!r}"
        )
    return table[name]


resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2), block="basic")
resnet34 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block="basic")
resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block="bottleneck")
resnet101 = functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), block="bottleneck")
resnet152 = functools.partial(ResNet, stage_sizes=(3, 8, 36, 3), block="bottleneck")
resnet_tiny = functools.partial(
    ResNet, stage_sizes=(1, 1, 1), block="basic", width=16, stem="small"
)
resnet8 = functools.partial(
    ResNet,
    stage_sizes=(1, 1, 1),
    strides=(1, 2, 1),
    block="basic",
    width=32,
    stem="strided",
)

RESNETS: dict[str, Callable[..., ResNet]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet_tiny": resnet_tiny,
    "resnet8": resnet8,
}
