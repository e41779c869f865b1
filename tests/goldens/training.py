"""Sections 7 and 8: LARS and the schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from caco_jax.optim import optimizers, schedules


def _lars(case: dict, dtype: type) -> dict:
    count = int(case["hp_num_params"])
    params = {i: jnp.asarray(case[f"in_p{i}"], dtype) for i in range(count)}
    rates = jnp.asarray(case["hp_lr"], dtype)
    tx = optimizers.lars(
        lambda step: rates[step],
        momentum=float(case["hp_momentum"]),
        weight_decay=float(case["hp_weight_decay"]),
        trust_coefficient=float(case["hp_trust_coefficient"]),
    )
    state = tx.init(params)
    update = jax.jit(tx.update)
    history = []
    for step in range(len(rates)):
        grads = {i: jnp.asarray(case[f"in_g{i}"][step], dtype) for i in range(count)}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, optax.tree.get(state, "trace")))
    return {
        f"out_{name}{i}": np.stack([entry[part][i] for entry in history])
        for part, name in enumerate(["p", "mu"])
        for i in range(count)
    }


def _over_epochs(schedule: optax.Schedule, epochs: int, dtype: type) -> jax.Array:
    values = jax.jit(jax.vmap(schedule))(jnp.arange(epochs))
    assert values.dtype == dtype
    return values


def _schedules(case: dict, dtype: type) -> dict:
    results: dict = {}
    for i in range(int(case["hp_num_settings"])):
        caco, adco = (
            {
                name.removeprefix(prefix): value.item() if value.ndim == 0 else value
                for name, value in case.items()
                if name.startswith(prefix)
            }
            for prefix in (f"s{i}_hp_caco_", f"s{i}_hp_adco_")
        )
        length = caco["epochs"]
        warm = {"warmup_epochs": caco["warmup"], "epochs": length}
        initial, final = (
            schedules.linear_scaled_rate(caco[name], batch_size=caco["bs"])
            for name in ("lr", "lr_final")
        )
        made = {
            "caco_lr": (schedules.warmup_cosine(initial, final, **warm), length),
            "caco_memory_lr": (
                schedules.warmup_cosine(caco["mlr"], caco["mlrf"], **warm),
                length,
            ),
            "caco_moco_momentum": (
                schedules.cosine_momentum(caco["moco_m"], epochs=length),
                length,
            ),
        }
        rate, length = adco["lr"], adco["epochs"]
        steps = [int(epoch) for epoch in adco["milestones"]]
        made |= {
            "adco_lr_cos1": (
                schedules.cosine(rate, adco["lr_final"], epochs=length),
                length,
            ),
            "adco_lr_cos2": (schedules.half_cosine(rate, epochs=length), length),
            "adco_lr_steps": (schedules.step_decay(rate, milestones=steps), length),
        }
        results |= {
            f"s{i}_out_{name}": _over_epochs(schedule, epochs, dtype)
            for name, (schedule, epochs) in made.items()
        }
    return results


CASES = {"lars": _lars, "schedules": _schedules}
