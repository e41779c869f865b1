"""What SimCLR, Plain, UEL and α-CL share: a loss of two views' embeddings, no more."""

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


def siamese(name: str, description: str, loss: PairLoss) -> Method:
    """The method whose encoder descends a loss of both views' unit embeddings.

    Args:
        name: as in the registry.
        description: one line for people.
        loss: (embeddings of view 1, of view 2) -> scalar.
    """

    def payoff(
        players: Players, context: Context, views: Sequence[View]
    ) -> tuple[Float[Array, ""], Outcome]:
        check_two_views(name, views)
        network = online_network(players, context)
        (z1, z2), online = encode_views(context.encode.online, network, views)
        metrics = {"embedding_std": embedding_spread(z1)}
        return loss(z1, z2), Outcome(online.stats, None, {}, metrics)

    return Method(
        name=name,
        description=description,
        moves={"encoder": "descend"},
        uses_target=False,
        init=lambda key: ({}, {}),
        payoff=payoff,
        advance=keep,
        attack=attack_second_view,
    )
