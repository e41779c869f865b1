"""Methods as data: their players, the payoff, and updates after a step.

``caco_jax.methods.caco(bank_size=4096)`` and its like choose a method's settings; a
`Pretraining` makes the method of them. Own methods are `Method`s.
"""

import functools

from caco_jax.methods.adversarial import adversarial
from caco_jax.methods.method import (
    Context,
    Encode,
    Method,
    Network,
    Outcome,
    StartUp,
    View,
    embedding_spread,
    encode_pairs,
    encode_views,
    keep,
    online_network,
)
from caco_jax.methods.registry import METHODS, MethodBuilder, builder

# Each name also is that of the module which implements it; what is called is this.
caco = functools.partial(builder, "caco")
adco = functools.partial(builder, "adco")
moco = functools.partial(builder, "moco")
simclr = functools.partial(builder, "simclr")
plain = functools.partial(builder, "plain")
uel = functools.partial(builder, "uel")
alpha_cl = functools.partial(builder, "alpha_cl")

__all__ = [
    "METHODS",
    "Context",
    "Encode",
    "Method",
    "MethodBuilder",
    "Network",
    "Outcome",
    "StartUp",
    "View",
    "adco",
    "adversarial",
    "alpha_cl",
    "caco",
    "embedding_spread",
    "encode_pairs",
    "encode_views",
    "keep",
    "moco",
    "online_network",
    "plain",
    "simclr",
    "uel",
]
