"""Vision transformers with timm's semantics (pre-norm).

`vit_tiny`, `vit_small` and `vit_base` have timm's widths and heads, patches of 16x16
pixels, a class token and learned positions. MoCo v3 recommends
``positions="sincos", fixed_patches=True``.

Patches have to divide the image size. Sine and cosine positions are computed for every
grid; learned positions belong to the grid of the first view and are interpolated for
others.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from caco_jax.nets.norm import CLEAN
from caco_jax.nets.resnet import check_images

_glorot = nn.initializers.xavier_uniform()
# Initialised as three separate layers of queries, keys and values.
_glorot_of_three = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
_small = nn.initializers.normal(0.02)


class _Block(nn.Module):
    """Attention and an MLP, each with LayerNorm before it and a residual connection."""

    heads: int
    hidden: int
    drop: float = 0.0
    attention: Literal["xla", "cudnn"] = "xla"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, key: PRNGKeyArray | None) -> jax.Array:
        """[N, T, D] -> [N, T, D]; without a key no image skips the block."""
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense: Any = functools.partial(nn.Dense, kernel_init=_glorot, **dtypes)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-6, **dtypes)
        rows, tokens, width = x.shape

        y = norm(name="norm1")(x)
        y = dense(3 * width, kernel_init=_glorot_of_three, name="attn_qkv")(y)
        y = y.reshape(rows, tokens, 3, self.heads, width // self.heads)
        y = jax.nn.dot_product_attention(
            *(y[:, :, part] for part in range(3)), implementation=self.attention
        )
        y = dense(width, name="attn_proj")(y.reshape(rows, tokens, width))
        x = x + self._dropped(y, key, place=0)

        y = dense(self.hidden, name="mlp_fc1")(norm(name="norm2")(x))
        y = dense(width, name="mlp_fc2")(nn.gelu(y, approximate=False))
        return x + self._dropped(y, key, place=1)

    def _dropped(
        self, y: jax.Array, key: PRNGKeyArray | None, *, place: int
    ) -> jax.Array:
        """Sets a random share of the rows to zero and scales up the others."""
        if key is None or self.drop == 0:
            return y
        keep = 1 - self.drop
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, place), keep, (y.shape[0], 1, 1)
        )
        return jnp.where(kept, y / keep, jnp.zeros_like(y))


class _Patches(nn.Module):
    """Patch embedding: a convolution whose stride is its kernel size."""

    width: int
    size: int
    fixed: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n r s d"]:
        """A token for each patch, in rows and columns."""
        rows, columns = (length // self.size for length in images.shape[1:3])
        shape = (self.size, self.size, images.shape[3], self.width)
        inputs = math.prod(shape[:3])

        def draw(key: PRNGKeyArray) -> jax.Array:
            matrix = _glorot(key, (inputs, self.width), self.param_dtype)
            return matrix.reshape(shape)

        def zeros(key: PRNGKeyArray) -> jax.Array:
            del key
            return jnp.zeros(self.width, self.param_dtype)

        # [N, R, P, S, P, C] -> [N, R, S, P P C]
        x = images.reshape(-1, rows, self.size, columns, self.size, shape[2])
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, inputs)
        x, kernel, bias = nn.dtypes.promote_dtype(
            x,
            own(self, "kernel", draw, fixed=self.fixed),
            own(self, "bias", zeros, fixed=self.fixed),
            dtype=self.dtype,
        )
        return x @ kernel.reshape(inputs, self.width) + bias[None, None, None]


def own(
    module: nn.Module,
    name: str,
    draw: Callable[[PRNGKeyArray], jax.Array],
    *,
    fixed: bool,
) -> jax.Array:
    """An array of a module: a trained parameter, or a fixed one without an optimiser.

    A fixed array is stored and saved with the running statistics.
    """
    if not fixed:
        return module.param(name, draw)
    return module.variable(
        "batch_stats", name, lambda: draw(module.make_rng("params"))
    ).value


class ViT(nn.Module):
    """A vision transformer with a final LayerNorm and pooling.

    Attributes:
        width: width D of a token.
        depth: number of blocks.
        heads: number of attention heads, which has to divide the width.
        patch_size: height and width of a patch in pixels.
        pooling: "token": the class token is the feature; "mean": the mean over patches
            is the feature, and there is no class token.
        positions: "learned", or "sincos": fixed sines and cosines of both axes; the
            width then has to be a multiple of four.
        fixed_patches: whether the patch embedding keeps its random initial weights.
        stochastic_depth: share of images that skip the last block in training; it grows
            linearly from 0 at the first. The random choice follows from pixels of the
            first image, without a key, so that a resumed run repeats it.
        mlp_ratio: hidden width of the MLP divided by the width.
        attention: "xla", or "cudnn": the fused kernel of NVIDIA GPUs, for bfloat16
            only.
        remat: keep the activations between blocks only, and recompute the rest in
            the backward pass: less memory, about a third more computation.
        dtype: dtype of the computation; None: promoted from images and parameters.
        param_dtype: of the parameters.

    References:
        Dosovitskiy et al. 2020, arXiv:2010.11929; Chen et al. 2021, arXiv:2104.02057
        (MoCo v3), for the initialisation, the fixed positions and the fixed patches;
        Huang et al. 2016, arXiv:1603.09382, for stochastic depth.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch_size: int = 16
    pooling: Literal["token", "mean"] = "token"
    positions: Literal["learned", "sincos"] = "learned"
    fixed_patches: bool = False
    stochastic_depth: float = 0.0
    mlp_ratio: int = 4
    attention: Literal["xla", "cudnn"] = "xla"
    remat: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], *, train: bool, branch: str = CLEAN
    ) -> Float[Array, "n d"]:
        """Features of each image.

        Args:
            images: [N, H, W, C] floats; patches divide H and W.
            train: whether images skip blocks, see `stochastic_depth`.
            branch: ignored: LayerNorm needs no adversarial branch.

        Returns:
            [N, D] features, at least float32.

        Raises:
            ValueError: `images` is not of rank 4, is empty or of another size, or an
                attribute is not one of the above.
            TypeError: `images` does not hold floats.
        """
        del branch
        self._check(images)
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = _Patches(
            self.width, self.patch_size, self.fixed_patches, name="patches", **dtypes
        )(images)
        grid = (x.shape[1], x.shape[2])
        x = x.reshape(x.shape[0], -1, self.width)
        if self.pooling == "token":
            token = self.param("cls_token", _small, (1, 1, self.width))
            token = token.astype(x.dtype)
            x = jnp.concatenate(
                [jnp.broadcast_to(token, (len(x), 1, self.width)), x], 1
            )
        x = x + self._positions(grid).astype(x.dtype)

        block = nn.remat(_Block) if self.remat else _Block
        dropping = train and self.stochastic_depth > 0
        for i in range(self.depth):
            x = block(
                heads=self.heads,
                hidden=self.mlp_ratio * self.width,
                drop=self.stochastic_depth * i / max(self.depth - 1, 1),
                attention=self.attention,
                name=f"blocks_{i}",
                **dtypes,
            )(x, jax.random.fold_in(_key_of(images), i) if dropping else None)
        x = nn.LayerNorm(epsilon=1e-6, name="norm", **dtypes)(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return x[:, 0] if self.pooling == "token" else x.mean(axis=1)

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        """Positions [1, T, D] to add to the tokens of a grid of patches."""
        tokens = int(self.pooling == "token")

        def draw(key: PRNGKeyArray) -> jax.Array:
            if self.positions == "sincos":
                return sincos_positions(grid, self.width, tokens).astype(
                    self.param_dtype
                )
            shape = (1, tokens + math.prod(grid), self.width)
            return _small(key, shape, self.param_dtype)

        fixed = self.positions == "sincos"
        collection = "batch_stats" if fixed else "params"
        known: Any = self.get_variable(collection, "pos_embed")
        if known is None or known.shape[1] == tokens + math.prod(grid):
            return own(self, "pos_embed", draw, fixed=fixed)
        if fixed:
            return sincos_positions(grid, self.width, tokens)
        return _interpolated(known, grid, tokens)

    def _check(self, images: jax.Array) -> None:
        check_images(images)
        size = images.shape[1:3]
        if any(length % self.patch_size for length in size):
            raise ValueError(
                f"ViT: expected images that patches of {self.patch_size} pixels "
                f"divide, got {size[0]} x {size[1]}; change patch_size or the views' "
                "size"
            )
        if self.width % self.heads:
            raise ValueError(
                f"ViT: expected heads that divide the width of {self.width}, got "
                f"{self.heads}"
            )
        if self.positions == "sincos" and self.width % 4:
            raise ValueError(
                f"ViT: expected a width of a multiple of 4 for sincos, got {self.width}"
            )
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(
                "ViT: stochastic_depth: expected a number in [0, 1), got "
                f"{self.stochastic_depth}"
            )
        for field, names in _CHOICES.items():
            if getattr(self, field) not in names:
                raise ValueError(
                    f"ViT: {field}: expected one of {list(names)}, got "
                    f"{getattr(self, field)!r}"
                )


_CHOICES = {
    "pooling": ("token", "mean"),
    "positions": ("learned", "sincos"),
    "attention": ("xla", "cudnn"),
}


def sincos_positions(
    grid: tuple[int, int], width: int, tokens: int = 0
) -> Float[Array, "1 t d"]:
    """Sine and cosine positions of the columns and rows of a grid, a quarter each.

    Args:
        grid: rows and columns.
        width: D, a multiple of 4.
        tokens: number of tokens before those of the grid; their positions are zero.

    References:
        Chen et al. 2021, arXiv:2104.02057, for the frequencies.
    """
    quarter = width // 4
    frequencies = 10_000.0 ** (-jnp.arange(quarter) / quarter)
    rows, columns = jnp.meshgrid(*map(jnp.arange, grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies[None] for axis in (columns, rows)]
    waves = [wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)]
    return jnp.pad(jnp.concatenate(waves, axis=1), ((tokens, 0), (0, 0)))[None]


def _interpolated(
    positions: jax.Array, grid: tuple[int, int], tokens: int
) -> jax.Array:
    """Interpolates learned positions of a square grid to another grid."""
    before, own_grid = positions[:, :tokens], positions[:, tokens:]
    side = math.isqrt(own_grid.shape[1])
    if side**2 != own_grid.shape[1]:
        raise ValueError(
            f"ViT: expected views of the size of the first, whose {own_grid.shape[1]} "
            f"patches are no square and have learned positions, got {grid[0]} x "
            f"{grid[1]} patches; set positions to sincos"
        )
    width = positions.shape[2]
    square = own_grid.reshape(1, side, side, width)
    resized = jax.image.resize(square, (1, *grid, width), "bicubic")
    return jnp.concatenate([before, resized.reshape(1, -1, width)], axis=1)


def _key_of(images: jax.Array) -> PRNGKeyArray:
    """A random key made from pixels of the first image, rounded to 1/16.

    Rounding makes it independent of the number of devices, which changes the last bits.
    """
    across, down = (max(length // 8, 1) for length in images.shape[1:3])
    pixels = jax.lax.stop_gradient(images[0, ::across, ::down]).ravel()
    levels = jnp.round(16 * pixels.astype(jnp.float32)).astype(jnp.int32)
    odd = 2 * jnp.arange(levels.size, dtype=jnp.uint32) + 1
    mixed = levels.astype(jnp.uint32) * odd * jnp.uint32(2_654_435_761)
    return jax.random.key(mixed.sum(dtype=jnp.uint32))


vit_tiny = functools.partial(ViT, width=192, heads=3)
vit_small = functools.partial(ViT, width=384, heads=6)
vit_base = functools.partial(ViT, width=768, heads=12)

VITS: dict[str, Callable[..., ViT]] = {
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "vit_base": vit_base,
}
