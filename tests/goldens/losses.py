"""The goldens of the losses: contrast, alpha-CL, and CLAE's arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax import losses


def _stack(results):
    """One dictionary of stacked arrays from one dictionary per setting."""
    return {name: np.stack([r[name] for r in results]) for name in results[0]}


def _with_gradients(loss, first, second, names):
    """The loss and its gradients with respect to both views, by the golden's names."""
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(first, second)
    return {"out_loss": value} | dict(zip(names, gradients, strict=True))


def ntxent(case, dtype):
    z_i, z_j = (jnp.asarray(case[f"in_{name}"], dtype) for name in ("z_i", "z_j"))
    return _stack(
        [
            _with_gradients(
                lambda a, b, t=t: losses.nt_xent(a, b, temperature=t),
                z_i,
                z_j,
                ("out_grad_z_i", "out_grad_z_j"),
            )
            for t in case["hp_temperature"].tolist()
        ]
    )


def plain_criterion(case, dtype):
    f1, f2 = (jnp.asarray(case[f"in_{name}"], dtype) for name in ("f1", "f2"))
    return _stack(
        [
            _with_gradients(
                lambda a, b, t=t: losses.plain_loss(a, b, temperature=t),
                f1,
                f2,
                ("out_grad_f1", "out_grad_f2"),
            )
            for t in case["hp_temperature"].tolist()
        ]
    )


def uel_criterion(case, dtype):
    f1, f2 = (jnp.asarray(case[f"in_{name}"], dtype) for name in ("f1", "f2"))
    settings = zip(
        case["hp_temperature"].tolist(), case["hp_neg_m"].tolist(), strict=True
    )
    return _stack(
        [
            _with_gradients(
                lambda a, b, t=t, m=m: losses.uel_loss(
                    a, b, temperature=t, negative_margin=m
                ),
                f1,
                f2,
                ("out_grad_f1", "out_grad_f2"),
            )
            for t, m in settings
        ]
    )


CASES = {
    "ntxent": ntxent,
    "plain_criterion": plain_criterion,
    "uel_criterion": uel_criterion,
}
