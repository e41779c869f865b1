"""Projectors: the layers between the backbone's features and the contrastive loss."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from caco_jax.nets.norm import CLEAN, BatchNorm

# Uniform in +-1/sqrt(inputs), the initialisation of the papers' linear layers.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Projector(nn.Module):
    """Linear layers with ReLU between them, and an optional norm before each ReLU.

    Use `caco_projector` or `mlp_projector` for the papers' choices. Layers are named by
    their position in the stack, ReLUs included: `linear_0`, `norm_1`, (ReLU 2),
    `linear_3`, ...

    Attributes:
        widths: outputs of each linear layer; the last is the embedding's.
        norm: constructor of the norm before every ReLU; None for none.
        use_bias: whether the linear layers have one.
        dtype: dtype of the computation; None: promoted from features and parameters.
        param_dtype: of the parameters.
    """

    widths: tuple[int, ...]
    norm: Callable[..., nn.Module] | None
    use_bias: bool
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "n f"], *, train: bool, branch: str = CLEAN
    ) -> Float[Array, "n d"]:
        """Embeddings of each row, not normalised.

        Args:
            features: [N, F] floats.
            train: whether the norms use and record the statistics of this batch.
            branch: which branch of the norms, "clean" or "adversarial".

        Returns:
            [N, widths[-1]] embeddings, at least float32.

        Raises:
            ValueError: `features` is not of rank 2.
        """
        if features.ndim != 2:
            raise ValueError(f"features: expected [N, F], got shape {features.shape}")
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        per_layer = 2 if self.norm is None else 3
        x = features
        for i, width in enumerate(self.widths):
            place = i * per_layer
            if i and self.norm is not None:
                norm = self.norm(name=f"norm_{place - 2}", **dtypes)
                x = norm(x, train=train, branch=branch)
            x = nn.relu(x) if i else x
            x = nn.Dense(
                width,
                use_bias=self.use_bias,
                kernel_init=_uniform,
                name=f"linear_{place}",
                **dtypes,
            )(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def caco_projector(
    hidden: int = 2048,
    dim: int = 256,
    *,
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Projector:
    """CaCo's head: three linear layers, BatchNorm after the first two, no biases.

    References:
        arXiv:2203.14370; the released code for the absence of a last norm.
    """
    return Projector((hidden, hidden, dim), norm, False, dtype, param_dtype)


def alpha_cl_projector(
    *widths: int,
    norm: Callable[..., nn.Module] = BatchNorm,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Projector:
    """α-CL's head: layers with biases, BatchNorm without scale and bias before ReLUs.

    References:
        arXiv:2201.12680; the widths of its released code are 512, 128.
    """
    plain = functools.partial(norm, affine=False)
    return Projector(widths, plain, True, dtype, param_dtype)


def mlp_projector(
    *widths: int,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Projector:
    """Linear layers with biases and no norm.

    ``mlp_projector(2048, 128)`` is MoCo v2's (arXiv:2003.04297) and AdCo's
    (arXiv:2011.08435) and, at other widths, SimCLR's (arXiv:2002.05709);
    ``mlp_projector(128)`` is a single linear layer.
    """
    return Projector(widths, None, True, dtype, param_dtype)
