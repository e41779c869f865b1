"""Schedules: step -> value, constant within an epoch, as in the papers' code.

Every schedule is an optax schedule: a function of the number of steps done. The papers
change their rates once an epoch; `steps_per_epoch` is the length of an epoch. Its
default of 1 gives the smooth form: state the epochs in steps and the value changes at
every step. After the last epoch the value is constant.

Values are of JAX's default float: float32, or float64 under `jax.enable_x64`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax


def linear_scaled_rate(base: float, *, batch_size: int) -> float:
    """The linear rule: `base` is the rate for a batch of 256.

    Raises:
        ValueError: the rate is negative or not finite, or the batch is empty.

    References:
        Goyal et al. 2017, arXiv:1706.02677.
    """
    _check_values(base=base)
    _check_counts(1, batch_size=batch_size)
    return base * batch_size / 256


def warmup_cosine(
    peak: float,
    final: float,
    *,
    warmup_epochs: int,
    epochs: int,
    steps_per_epoch: int = 1,
) -> optax.Schedule:
    """Linear warm-up to `peak`, then half a cosine towards `final`.

    Epoch e of the w warm-up epochs has peak·(e + 1)/w; later ones have
    final + (peak − final)·(1 + cos(π (e − w)/(E − w)))/2. So the first epoch has a rate
    above zero, `peak` holds for the epochs w − 1 and w, and `final` is the value after
    the last epoch. Equal `peak` and `final` give a warm-up to a constant.

    Args:
        peak: value at the end of the warm-up, at least 0.
        final: value after the last epoch, at least 0.
        warmup_epochs: w, of 0 to `epochs`.
        epochs: E, length of the training, the warm-up included.
        steps_per_epoch: steps that share one value.

    Returns:
        A schedule of the step.

    Raises:
        ValueError: a value is negative or not finite, or the epochs do not fit.

    References:
        CaCo, arXiv:2203.14370 (encoder and bank rates); SimCLR, arXiv:2002.05709.
    """
    _check_values(peak=peak, final=final)
    _check_counts(0, warmup_epochs=warmup_epochs)
    if warmup_epochs > epochs:
        raise ValueError(
            f"warmup_epochs: expected at most epochs ({epochs}), got {warmup_epochs}"
        )

    def value(epoch: jax.Array) -> jax.Array:
        share = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1)
        # cos²(x/2) is (1 + cos x)/2 without the cancellation at the end.
        cosine_part = final + (peak - final) * jnp.cos(jnp.pi / 2 * share) ** 2
        warm_part = peak * (epoch + 1) / max(warmup_epochs, 1)
        return jnp.where(epoch < warmup_epochs, warm_part, cosine_part)

    return _by_epoch(value, epochs=epochs, steps_per_epoch=steps_per_epoch)


def cosine(
    initial: float, final: float, *, epochs: int, steps_per_epoch: int = 1
) -> optax.Schedule:
    """Half a cosine from `initial` to `final`, without warm-up.

    final + (initial − final)·(1 + cos(π e/E))/2, AdCo's rate. See `warmup_cosine` for
    arguments and errors.

    References:
        AdCo, arXiv:2011.08435; MoCo v2, arXiv:2003.04297.
    """
    return warmup_cosine(
        initial, final, warmup_epochs=0, epochs=epochs, steps_per_epoch=steps_per_epoch
    )


def half_cosine(
    initial: float, *, epochs: int, steps_per_epoch: int = 1
) -> optax.Schedule:
    """A quarter period of the cosine: initial·cos(π e/(2E)), down to zero.

    Slow first, steepest at the end; AdCo's second rate. See `warmup_cosine` for
    arguments and errors.
    """
    _check_values(initial=initial)
    return _by_epoch(
        lambda epoch: initial * jnp.cos(jnp.pi * epoch / (2 * epochs)),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
    )


def cosine_momentum(
    initial: float, *, epochs: int, steps_per_epoch: int = 1
) -> optax.Schedule:
    """The target network's momentum, from `initial` to 1 along half a cosine.

    1 − (1 − initial)·(1 + cos(π e/E))/2.

    Args:
        initial: momentum of the first epoch, in [0, 1].
        epochs: E, length of the training.
        steps_per_epoch: steps that share one value.

    Returns:
        A schedule of the step.

    Raises:
        ValueError: the momentum is outside [0, 1], or a count is below 1.

    References:
        BYOL, arXiv:2006.07733; CaCo, arXiv:2203.14370.
    """
    if not 0 <= initial <= 1:
        raise ValueError(f"initial: expected a momentum in [0, 1], got {initial}")
    return cosine(initial, 1.0, epochs=epochs, steps_per_epoch=steps_per_epoch)


def step_table(
    initial: float, factors: Mapping[int, float], *, steps_per_epoch: int = 1
) -> optax.Schedule:
    """A schedule of `initial` times the factor of the latest milestone.

    The factors are relative to the *initial* rate and not multiplied together: CLAE's
    is `step_table(0.03, {120: 0.1, 160: 0.05, 200: 0.01})`.

    Args:
        initial: rate before the first milestone, at least 0.
        factors: factor by the epoch from which it holds; epochs count from 0.
        steps_per_epoch: steps that share one value.

    Returns:
        A schedule of the step.

    Raises:
        ValueError: a rate or factor is negative or not finite, or a milestone or
            `steps_per_epoch` is below 1.
    """
    _check_values(initial=initial, **{f"factors[{e}]": f for e, f in factors.items()})
    _check_counts(1, **{f"milestone {e}": e for e in factors})
    milestones = sorted(factors)
    values = [initial] + [initial * factors[epoch] for epoch in milestones]

    def value(epoch: jax.Array) -> jax.Array:
        passed = sum((epoch >= milestone).astype(int) for milestone in milestones)
        return jnp.asarray(values, float)[passed]

    last = milestones[-1] if milestones else 1
    return _by_epoch(value, epochs=last, steps_per_epoch=steps_per_epoch)


def step_decay(
    initial: float,
    *,
    milestones: Sequence[int],
    factor: float = 0.1,
    steps_per_epoch: int = 1,
) -> optax.Schedule:
    """A schedule that is multiplied by `factor` at each milestone (epochs from 0).

    initial·factor^(number of milestones ≤ e). See `step_table` for the errors;
    equal milestones are an error, too.
    """
    if len(set(milestones)) < len(milestones):
        raise ValueError(f"milestones: expected different epochs, got {milestones}")
    factors = {e: factor ** (i + 1) for i, e in enumerate(sorted(milestones))}
    return step_table(initial, factors, steps_per_epoch=steps_per_epoch)


def _by_epoch(
    value: Callable[[jax.Array], jax.Array], *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """A schedule of the step from a function of the epoch (a float, at most E)."""
    _check_counts(1, epochs=epochs, steps_per_epoch=steps_per_epoch)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.minimum(jnp.asarray(step) // steps_per_epoch, epochs)
        return value(epoch.astype(float))

    return schedule


def _check_values(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: expected a finite number >= 0, got {value}")


def _check_counts(least: int, **counts: int) -> None:
    for name, count in counts.items():
        if int(count) != count or count < least:
            raise ValueError(f"{name}: expected a whole number >= {least}, got {count}")
