"""BatchNorm with an adversarial branch and with groups of rows; GroupNorm."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from caco_jax.nets.product import moments_of_product, product

CLEAN = "clean"
ADVERSARIAL = "adversarial"


class _Branch(NamedTuple):
    """One branch of BatchNorm: affine map, running statistics and their momentum."""

    scale: jax.Array
    bias: jax.Array
    mean: nn.Variable
    var: nn.Variable
    momentum: float


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as PyTorch computes it.

    It differs from flax's where the papers' results depend on it: the running variance
    is unbiased, a second branch can be kept for adversarial inputs, and statistics can
    be those of groups of rows. Without groups, under `jax.jit` with a sharded batch,
    they are those of the global batch (synchronised BatchNorm).

    With `adversarial_branch` every parameter and statistic has a second copy, created
    at initialisation whichever branch is called then.

    Attributes:
        momentum: weight of the new batch in the running statistics,
            ``new = (1 - momentum) * old + momentum * batch``.
        epsilon: added to the variance.
        group_size: number of consecutive rows that share statistics; it must divide the
            batch. None is the whole batch. The running statistics move towards the mean
            over groups.
        adversarial_branch: whether the adversarial branch exists.
        adversarial_momentum: `momentum` of the adversarial branch.
        scale_init: initialiser of the scales, of both branches.
        affine: whether there are scales and biases; otherwise they are 1 and 0.
        dtype: of the output; None is the input's.
        param_dtype: of scale and bias; the running statistics are kept in it too,
            but at least in float32.

    References:
        Adversarial branch: Ho and Vasconcelos 2020, arXiv:2010.12050. Groups of rows:
        He et al. 2019, arXiv:1911.05722, section 3.3 (shuffling BN).
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    group_size: int | None = None
    adversarial_branch: bool = False
    adversarial_momentum: float = 0.01
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    affine: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n *space c"],
        *,
        train: bool,
        branch: str = CLEAN,
        kernel: Float[Array, "c d"] | None = None,
        pool: Callable[[jax.Array], jax.Array] | None = None,
    ) -> Float[Array, "n *space2 d"]:
        """Normalises `x`, in at least float32 whatever its dtype.

        Two arguments join it with its neighbours. In exact numbers nothing changes, and
        less is written and read:

        With a `kernel`, normalises ``x @ kernel`` without making it first. Its moments
        follow from those of `x`, and its scale goes into the kernel. That pays where D
        is larger than C, and takes C x C more products a row.

        With a `pool`, returns ``pool(normalised x)``, but pools first: a maximum stays
        one through a map that grows, and where a scale is negative, `x` is mirrored.

        Args:
            x: [N, ..., C] floats.
            train: whether to use, and to record, the statistics of `x`; otherwise
                the running ones. Initialisation always uses the running ones.
            branch: "clean" or "adversarial".
            kernel: None, or what `x` [N, H, W, C] is multiplied by.
            pool: None, or what takes maxima over places, [N, ..., C] -> [N, ..., C].

        Returns:
            [N, ..., C], or [N, ..., D] with a kernel.

        Raises:
            ValueError: the branch does not exist, the group size does not divide the
                batch, or a group has one value per channel, hence no variance.
        """
        channels = (x if kernel is None else kernel).shape[-1]
        chosen = self._choose(branch, channels)
        learn = train and not self.is_initializing()
        size = self._check_groups(x.shape) if learn else x.shape[0]
        accumulate = jnp.promote_types(x.dtype, jnp.float32)
        # [groups, size, ..., C]; with the batch sharded, groups stay on their devices.
        groups = x.reshape(-1, size, *x.shape[1:])

        def align(vector: jax.Array) -> jax.Array:
            return vector.astype(accumulate).reshape((1,) * x.ndim + (-1,))

        with jax.named_scope("batchnorm"):
            scale, mean = align(chosen.scale), align(chosen.mean.value)
            var = align(chosen.var.value)
            mirror = jnp.ones_like(scale)
            if pool is not None:
                mirror = jnp.where(scale < 0, -mirror, mirror)
                groups = groups * mirror.astype(x.dtype)
            if learn and kernel is None:
                mean, var = _moments(groups.astype(accumulate), mean * mirror)
            elif learn and kernel is not None:
                mean, var = moments_of_product(groups, kernel.astype(accumulate))
            else:
                mean = mean * mirror
            if learn:
                self._record(chosen, mean * mirror, var, count=groups[0, ..., 0].size)
            slope = jax.lax.rsqrt(var + self.epsilon) * scale * mirror
        if pool is not None:
            pooled = pool(groups.reshape(x.shape))
            groups = pooled.reshape(*groups.shape[:2], *pooled.shape[1:])
        if kernel is None:
            with jax.named_scope("batchnorm"):
                y = (groups.astype(accumulate) - mean) * slope + align(chosen.bias)
        else:
            # [groups or 1, C, D]
            scaled = kernel[None] * slope.reshape(-1, 1, channels)
            y = product(groups, scaled.astype(x.dtype)).astype(accumulate)
            y += align(chosen.bias) - mean * slope
        return y.reshape(len(x), *y.shape[2:]).astype(self.dtype or x.dtype)

    def _choose(self, branch: str, channels: int) -> _Branch:
        branches = {CLEAN: self._declare("", channels, self.momentum)}
        if self.adversarial_branch:
            branches[ADVERSARIAL] = self._declare(
                "adversarial_", channels, self.adversarial_momentum
            )
        if branch not in branches:
            raise ValueError(
                f"BatchNorm: branch: expected one of {sorted(branches)}, got "
                f"{branch!r}; adversarial_branch=True adds the adversarial one"
            )
        return branches[branch]

    def _declare(self, prefix: str, channels: int, momentum: float) -> _Branch:
        stat_dtype = jnp.promote_types(self.param_dtype, jnp.float32)

        def stat(name: str, fill: Any) -> nn.Variable:
            return self.variable(
                "batch_stats", prefix + name, fill, (channels,), stat_dtype
            )

        def affine(name: str, init: nn.initializers.Initializer) -> jax.Array:
            if not self.affine:
                return jnp.full((channels,), float(name == "scale"), self.param_dtype)
            return self.param(prefix + name, init, (channels,), self.param_dtype)

        return _Branch(
            affine("scale", self.scale_init),
            affine("bias", nn.initializers.zeros),
            stat("mean", jnp.zeros),
            stat("var", jnp.ones),
            momentum,
        )

    def _check_groups(self, shape: tuple[int, ...]) -> int:
        """The number of rows in a group; checks that it divides the batch."""
        rows = shape[0]
        size = rows if self.group_size is None else self.group_size
        if size < 1 or rows % size:
            raise ValueError(
                f"BatchNorm: group_size: expected a divisor of the batch of {rows}, "
                f"got {size}"
            )
        if size * _count(shape[1:-1]) < 2:
            raise ValueError(
                "BatchNorm: expected more than one value per channel to train on, got "
                f"the shape {tuple(shape)} in groups of {size}"
            )
        return size

    def _record(
        self, branch: _Branch, mean: jax.Array, var: jax.Array, *, count: int
    ) -> None:
        """Updates the running statistics; `var` is biased, the running one unbiased."""
        unbiased = var * (count / (count - 1))
        for running, batch in ((branch.mean, mean), (branch.var, unbiased)):
            over_groups = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
            new = over_groups.astype(running.value.dtype)
            running.value += branch.momentum * (new - running.value)


class GroupNorm(nn.Module):
    """GroupNorm over groups of an example's channels, for networks without BatchNorm.

    It replaces `BatchNorm` and has no statistics: rows are independent, train mode
    equals evaluation mode, and adversarial images need no second branch.

    Attributes:
        groups: largest number of groups, of at least two channels each; vectors are one
            group.
        epsilon: added to the variance.
        scale_init: initialiser of the scales.
        affine: whether there are scales and biases; otherwise they are 1 and 0.
        dtype: of the output; None is the input's.
        param_dtype: of scale and bias.

    References:
        Wu and He 2018, arXiv:1803.08494.
    """

    groups: int = 32
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    affine: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n *space c"], *, train: bool = False, branch: str = CLEAN
    ) -> Float[Array, "n *space c"]:
        """Normalises `x` [N, ..., C]; `train` and `branch` are ignored."""
        del train, branch
        pairs = max(x.shape[-1] // 2, 1)
        norm = nn.GroupNorm(
            num_groups=math.gcd(self.groups, pairs) if x.ndim > 2 else 1,
            epsilon=self.epsilon,
            use_scale=self.affine,
            use_bias=self.affine,
            scale_init=self.scale_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        nn.share_scope(self, norm)
        return norm(x)


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _moments(groups: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each group, in one pass over [groups, size, ..., C].

    E[x^2] - E[x]^2 loses precision when the mean is large compared with the deviation.
    Taken about `shift`, the running mean, it costs the same pass and keeps its
    precision.
    """
    axes = tuple(range(1, groups.ndim - 1))
    centred = groups - shift
    offset = centred.mean(axes, keepdims=True)
    square = jnp.square(centred).mean(axes, keepdims=True)
    return offset + shift, jnp.maximum(square - jnp.square(offset), 0)
