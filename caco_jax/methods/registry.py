"""The one list of methods: name -> (its config, how it is made)."""

from collections.abc import Callable
from typing import Any

from caco_jax.methods import adco, alpha_cl, caco, instance, moco, simclr
from caco_jax.methods.method import Method

METHODS: dict[str, tuple[type, Callable[..., Method]]] = {
    "caco": (caco.CacoConfig, caco.make),
    "adco": (adco.AdcoConfig, adco.make),
    "moco": (moco.MocoConfig, moco.make),
    "simclr": (simclr.SimclrConfig, simclr.make),
    "plain": (instance.PlainConfig, instance.make_plain),
    "uel": (instance.UelConfig, instance.make_uel),
    "alpha_cl": (alpha_cl.AlphaClConfig, alpha_cl.make),
}


def make_method(config: Any, *, embedding_dim: int) -> Method:
    """Makes the method that the config's type belongs to.

    Args:
        config: an instance of one of the registered config classes.
        embedding_dim: width of the embeddings.

    Raises:
        KeyError: no method has this config class.
    """
    for config_class, make in METHODS.values():
        if type(config) is config_class:
            return make(config, embedding_dim=embedding_dim)
    raise KeyError(f"no method is configured by {type(config).__name__}")
