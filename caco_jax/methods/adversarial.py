"""CLAE: a wrapper that adds an adversarial perturbation of the input to a method.

References:
    Ho and Vasconcelos 2020, arXiv:2010.12050.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses.adversarial import fgsm_perturb
from caco_jax.losses.checks import check_at_least, check_positive
from caco_jax.methods.method import (
    Attack,
    Context,
    Encode,
    EncodeFn,
    Method,
    Network,
    Outcome,
    Players,
    PyTree,
    View,
)
from caco_jax.nets.norm import ADVERSARIAL


class Perturbed(NamedTuple):
    """The perturbed images of a view, with the gradient that perturbed them.

    Attributes:
        images: the perturbed images [N, H, W, C], constant for every gradient.
        gradient: of the payoff, at the images before; of their shape.
        payoff: the payoff there.
        stats: BatchNorm statistics of the online encoder after the attack.
    """

    images: Float[Array, "n h w c"]
    gradient: Float[Array, "n h w c"]
    payoff: Float[Array, ""]
    stats: PyTree


def adversarial(
    method: Any,
    *,
    epsilon: float,
    weight: float = 1.0,
    reencode_clean: bool = False,
    pixel_std: Sequence[float] = (),
) -> Any:
    """The method with an input adversary: clean payoff plus adversarial payoff.

    One signed gradient step moves the images of one view uphill on the host's own
    payoff for the whole batch, through the adversarial BatchNorm branch. The new
    payoff is ``payoff(views) + weight * payoff(pair)``, with the pair that the host's
    `attack` names: for SimCLR and its like (view 1, view 1 perturbed); where a target
    encoder makes the keys, the perturbed view is the query and the key is the other
    view's, clean. In multi-crop a large view is attacked. All players move by the
    gradient of the sum.

    What the host does after a step (its queue, its counts) follows from the clean
    payoff alone. Metrics of the second payoff are named "adversarial_...".

    Args:
        method: the host, or what makes it of an embedding's width: then so is the
            result. Its encoder needs norms with an adversarial branch, or none.
        epsilon: by how much every pixel moves, in normalised-pixel units, above 0.
        weight: of the second payoff, at least 0.
        reencode_clean: encode the clean partner again for the second payoff, as the
            released code of Plain does: its BatchNorm statistics then count twice.
        pixel_std: what each channel was divided by, on the scale of [0, 1]; only for
            the description, which then also says epsilon in grey levels of 0 to 255.

    Raises:
        ValueError: the method has an input adversary already or cannot have one, or a
            number is out of range.
    """
    if not isinstance(method, Method):
        how: dict[str, Any] = {
            "epsilon": epsilon,
            "weight": weight,
            "reencode_clean": reencode_clean,
        }
        return lambda dim: adversarial(method(dim), **how, pixel_std=pixel_std)
    attack = method.attack
    if attack is None:
        raise ValueError(
            f"{method.name}: expected a method that supports an input adversary and "
            f"has none yet, got {method.description!r}"
        )
    check_positive(epsilon=epsilon)
    check_at_least(0, weight=weight)

    def payoff(
        players: Players, context: Context, views: Sequence[View]
    ) -> tuple[Float[Array, ""], Outcome]:
        raw, target = context.encode.online, memoize(context.encode.target)
        encode = Encode(raw if reencode_clean else memoize(raw), target)
        clean, outcome = method.payoff(players, context._replace(encode=encode), views)

        now = Context(outcome.stats, outcome.target, context.extra, encode)
        where = attack(len(views))
        partner = views[where.partner]
        if where.as_query:
            assert now.target is not None
            # Known from now on, and outside the attack's gradient.
            _, network = target(now.target, partner)
            now = now._replace(target=network)
        # What the attack differentiates is not to be remembered beyond it.
        attacked = now._replace(encode=Encode(raw, target))
        found = perturb(method, players, attacked, views, epsilon=epsilon)

        hard, last = method.payoff(
            players,
            now._replace(stats=found.stats),
            _pair(where, partner, found.images),
        )
        metrics = {**outcome.metrics, "clean_loss": clean, "adversarial_loss": hard}
        metrics |= {f"adversarial_{name}": m for name, m in last.metrics.items()}
        arrays = outcome.arrays
        return clean + weight * hard, Outcome(last.stats, last.target, arrays, metrics)

    return method._replace(
        description=f"{method.description}; CLAE, {_amount(epsilon, pixel_std)}",
        payoff=payoff,
        attack=None,
        twin=True,
    )


def perturb(
    method: Method,
    players: Players,
    context: Context,
    views: Sequence[View],
    *,
    epsilon: float,
) -> Perturbed:
    """Perturbs the images of a view by one signed gradient step on the payoff (FGSM).

    Args:
        method: the host, whose `attack` names the views.
        players: held still.
        context: of the step.
        views: all clean views.
        epsilon: above 0, in normalised-pixel units.
    """
    assert method.attack is not None
    where = method.attack(len(views))
    partner = views[where.partner]
    if not where.as_query:
        partner = View(partner.images, ADVERSARIAL)
    players, stats = jax.lax.stop_gradient((players, context.stats))
    context = context._replace(stats=stats)

    def climb(images: Float[Array, "n h w c"]) -> tuple[Float[Array, ""], PyTree]:
        pair = _pair(where, partner, images)
        value, outcome = method.payoff(players, context, pair)
        return value, outcome.stats

    start = jax.lax.stop_gradient(views[where.source].images)
    (value, stats), gradient = jax.value_and_grad(climb, has_aux=True)(start)
    # The slope is known, together with the statistics: the step climbs its plane.
    images = fgsm_perturb(lambda x: jnp.sum(gradient * x), start, epsilon=epsilon)
    return Perturbed(images, gradient, value, jax.lax.stop_gradient(stats))


def memoize(encode: EncodeFn) -> EncodeFn:
    """Caches the encoder's result of each View, so its statistics are updated once.

    Only for one network, within one trace.
    """
    known: dict[int, tuple[View, Float[Array, "n d"]]] = {}

    def recall(network: Network, view: View) -> tuple[Float[Array, "n d"], Network]:
        if id(view) not in known:
            embeddings, network = encode(network, view)
            known[id(view)] = view, embeddings  # the view kept: its id stays its own
        return known[id(view)][1], network

    return recall


def _pair(where: Attack, partner: View, images: Array) -> list[View]:
    """The adversarial view and the other view, in the order of the method's payoff."""
    pair = [View(images, ADVERSARIAL), partner]
    return pair if where.as_query else pair[::-1]


def grey_levels(epsilon: float, pixel_std: Sequence[float]) -> tuple[float, ...]:
    """The size of the perturbation of each channel, in grey levels of 0 to 255.

    Args:
        epsilon: in normalised-pixel units.
        pixel_std: what each channel, in [0, 1], is divided by.
    """
    return tuple(epsilon * std * 255 for std in pixel_std)


def _amount(epsilon: float, pixel_std: Sequence[float]) -> str:
    """Epsilon in words."""
    if not pixel_std:
        return f"ε = {epsilon:g} of normalised pixels"
    grey = ", ".join(f"{level:.2g}" for level in grey_levels(epsilon, pixel_std))
    return f"ε = {epsilon:g} of normalised pixels, {grey} of 255 grey levels"
