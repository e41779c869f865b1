"""The registry of methods: name -> (settings dataclass, `make`)."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class MethodBuilder(NamedTuple):
    """A method with chosen settings; only the width of the embedding is missing.

    Attributes:
        settings: a frozen dataclass.
        make: (settings, embedding_dim=D) -> `Method`.
    """

    settings: Any
    make: Callable[..., Method]

    def __call__(self, embedding_dim: int) -> Method:
        """The method for embeddings of this width.

        Raises:
            TypeError: what makes it makes something else.
        """
        method = self.make(self.settings, embedding_dim=embedding_dim)
        if not isinstance(method, Method):
            raise TypeError(f"expected make() to return a Method, got {method!r}")
        return method._replace(settings=self.settings)


def builder(name: str, **settings: Any) -> MethodBuilder:
    """A registered method with these settings and defaults for the others.

    Args:
        name: of the registry.
        **settings: fields of its settings.

    Raises:
        ConfigError: a value is out of range.
        TypeError: there is no such setting.
    """
    settings_class, make = METHODS[name]
    return MethodBuilder(settings_class(**settings), make)


def make_method(config: Any, *, embedding_dim: int) -> Method:
    """Makes the method that the settings' type belongs to.

    Args:
        config: an instance of one of the registered settings classes.
        embedding_dim: width of the embeddings.

    Raises:
        KeyError: no method has these settings.
    """
    for settings_class, make in METHODS.values():
        if type(config) is settings_class:
            return MethodBuilder(config, make)(embedding_dim)
    raise KeyError(f"no method is configured by {type(config).__name__}")
