"""Methods with a loss of two views' embeddings: SimCLR, Plain, UEL and α-CL."""

from collections.abc import Callable, Sequence

from jaxtyping import Array, Float

from caco_jax.methods.method import (
    Context,
    Method,
    Outcome,
    Players,
    View,
    attack_second_view,
    check_two_views,
    embedding_spread,
    encode_views,
    keep,
    online_network,
)

PairLoss = Callable[[Float[Array, "n d"], Float[Array, "n d"]], Float[Array, ""]]


def two_view(
    name: str,
    description: str,
    loss: PairLoss,
    *,
    candidates: Callable[[int], int] | None = None,
) -> Method:
    """A method whose encoder descends a loss of the unit embeddings of two views.

    Args:
        name: as in the registry.
        description: one line for people.
        loss: (embeddings of view 1, of view 2) -> scalar.
        candidates: where the loss is a cross entropy: batch size -> among how many.
    """

    def payoff(
        players: Players, context: Context, views: Sequence[View]
    ) -> tuple[Float[Array, ""], Outcome]:
        check_two_views(name, views)
        network = online_network(players, context)
        (z1, z2), online = encode_views(context.encode.online, network, views)
        value = loss(z1, z2)
        metrics = {"embedding_std": embedding_spread(z1)}
        if candidates is not None:
            metrics["cross_entropy"] = value
        return value, Outcome(online.stats, None, {}, metrics)

    return Method(
        name=name,
        description=description,
        moves={"encoder": "descend"},
        uses_target=False,
        init=lambda key: ({}, {}),
        payoff=payoff,
        advance=keep,
        candidates=candidates,
        attack=attack_second_view,
    )
