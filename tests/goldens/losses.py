"""The goldens of the losses: contrast and alpha-CL."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax import losses
from caco_jax.analysis.covariance import covariances
from caco_jax.losses import alpha_published, contrast


def _stack(results):
    """One dictionary of stacked arrays from one dictionary per setting."""
    return {name: np.stack([r[name] for r in results]) for name in results[0]}


def criterion(loss, names, settings, case, dtype):
    """The loss and its gradients for both views, at every setting.

    Args:
        loss: of two views and the settings.
        names: of the views, in the golden.
        settings: the golden's name of each argument.
        case: its arrays.
        dtype: to compute in.
    """
    views = [jnp.asarray(case[f"in_{name}"], dtype) for name in names]

    @jax.jit
    def moves(numbers):
        return jax.value_and_grad(lambda a, b: loss(a, b, **numbers), (0, 1))(*views)

    results = []
    for row in zip(*(case[f"hp_{name}"].tolist() for name in settings), strict=True):
        value, gradients = moves(dict(zip(settings.values(), row, strict=True)))
        named = zip((f"out_grad_{name}" for name in names), gradients, strict=True)
        results.append({"out_loss": value, **dict(named)})
    return _stack(results)


# α-CL. The released code stacks the second views first, so its zjs are our z1.


def _as_given(rows):
    return rows


def _shape(setting):
    """The raw weights that a setting asks for; its exponent is on d²."""
    power, temperature = 2 * setting["alpha_exponent"], setting["temperature"]
    match setting["alpha_type"]:
        case "exp":
            return losses.exponential_shape(power=power, temperature=temperature)
        case "inverse":
            return losses.inverse_shape(
                power=power,
                temperature=temperature,
                exponent=setting["inverse_exponent"],
            )
        case "quadratic":
            return losses.quadratic_shape(
                power=power,
                temperature=temperature,
                assign=alpha_published.published_simplex_assignment,
            )
    raise ValueError(f"unknown alpha_type {setting['alpha_type']}")


def _importance(setting, zs):
    temperature = setting["temperature"]
    logistic = losses.unnormalised(losses.logistic_shape(temperature=temperature))
    match setting["loss_type"]:
        case "dual" | "dual_backprop":
            return losses.unnormalised(_shape(setting))
        case "dual2":
            return losses.row_normalised(_shape(setting), epsilon=setting["alpha_eps"])
        case "dual_per_sample":
            return alpha_published.published_per_sample(_shape(setting))
        case "dual_lowrank":
            raw = losses.exponential_shape(power=2, temperature=temperature)
            return losses.low_rank(raw, rank=setting["low_rank"])
        case "quadratic":
            return losses.unnormalised(losses.uniform_shape())
        case "exact_cov" if setting["exact_cov_unaug_sim"]:
            images = contrast.similarities(*[losses.l2_normalize(zs)] * 2)
            between = jnp.tile(contrast.without_diagonal(1 - images), (2, 2))
            return losses.given_weights(logistic(between))
        case "exact_cov":
            return logistic
    raise ValueError(f"unknown loss_type {setting['loss_type']}")


def _alpha_cl_parts(setting, zs, zjs, zis):
    """The two losses that the released code returns."""
    normalise = losses.l2_normalize if setting["use_cosine_similarity"] else _as_given
    beta = setting["beta"]
    if setting["loss_type"] == "default":
        inter, intra = losses.nt_xent_terms(
            zjs,
            zis,
            temperature=setting["temperature"],
            constants=(1.0,) if setting["add_one_in_neg"] else (),
            normalise=normalise,
        )
        return inter / (1 + beta), beta * intra / (1 + beta)
    inter, intra = losses.alpha_cl_terms(
        zjs, zis, importance=_importance(setting, zs), normalise=normalise
    )
    if setting["loss_type"] == "quadratic":  # splits the same sum in another place
        positive = intra - 1
        return inter - positive, positive
    ignores_beta = setting["loss_type"] in ("dual2", "dual_per_sample")
    return inter, (0 if ignores_beta else beta) * intra


@functools.partial(jax.jit, static_argnames="words")
def _alpha_cl_setting(words, numbers, zs, zjs, zis):
    """All of a setting; its words choose the program, its numbers are traced."""
    setting = {**dict(words), **numbers}
    (out_loss, out_intra), backward = jax.vjp(
        functools.partial(_alpha_cl_parts, setting, zs), zjs, zis
    )
    one, none = jnp.ones_like(out_loss), jnp.zeros_like(out_loss)
    of_loss, of_total = backward((one, none)), backward((one, one))
    if setting["loss_type"] == "quadratic":
        out_loss = out_loss + out_intra  # see `alpha_cl_wanted`
    if setting["loss_type"] in ("default", "quadratic"):
        weights = jnp.full((2 * len(zis), 2 * len(zis) - 2), jnp.nan)
    else:
        cosine = setting["use_cosine_similarity"]
        weights = losses.alpha_cl_weights(
            zjs,
            zis,
            importance=_importance(setting, zs),
            normalise=losses.l2_normalize if cosine else _as_given,
        )
    return {
        "out_loss": out_loss,
        "out_loss_intra": out_intra,
        "out_grad_zjs_loss": of_loss[0],
        "out_grad_zis_loss": of_loss[1],
        "out_grad_zjs_total": of_total[0],
        "out_grad_zis_total": of_total[1],
        "out_w": weights,
    }


def alpha_cl(case, dtype):
    zs, zjs, zis = (jnp.asarray(case[f"in_{n}"], dtype) for n in ("zs", "zjs", "zis"))
    columns = {k[3:]: v.tolist() for k, v in case.items() if k.startswith("hp_")}
    results = []
    for row in zip(*columns.values(), strict=True):
        setting = dict(zip(columns, row, strict=True))
        # Whether an exponent is whole chooses the program, too.
        whole = {"alpha_exponent", "inverse_exponent"}
        numbers = {
            k: v for k, v in setting.items() if type(v) is float and k not in whole
        }
        words = tuple((k, v) for k, v in setting.items() if k not in numbers)
        results.append(_alpha_cl_setting(words, numbers, zs, zjs, zis))

    @jax.jit
    def negatives(zjs, zis):
        views = losses.l2_normalize(jnp.concatenate([zjs, zis]))
        return contrast.split_pairs(contrast.similarities(views, views))[1]

    return _stack(results) | {"out_negatives_cosine": negatives(zjs, zis)}


def alpha_cl_wanted(case):
    """What is compared with `alpha_cl` where that is not an array of the golden.

    The released code splits its quadratic loss into negatives and positives, ours is
    one sum of both. Ours less the positives would be the difference of numbers that are
    forty times as large: the sums are compared instead, and the positives alone.
    """
    both = case["out_loss"] + case["out_loss_intra"]
    quadratic = case["hp_loss_type"] == "quadratic"
    return {"out_loss": np.where(quadratic, both, case["out_loss"])}


def alpha_quadratic_assignment(case, dtype):
    distances = jnp.asarray(case["in_dists"], dtype)
    assign = jax.jit(alpha_published.published_simplex_assignment)
    rows = [assign(distances, temperature=tau) for tau in case["hp_tau"].tolist()]
    return {"out_w": np.stack(rows)}


def alpha_l2_reg(case, dtype):
    x, grad_out = (jnp.asarray(case[f"in_{n}"], dtype) for n in ("x", "grad_out"))
    functions = {
        "only_mag": alpha_published.unit_without_projection,
        "regular": losses.l2_normalize,
    }
    results = {}
    for name, function in functions.items():
        y, backward = jax.vjp(jax.jit(function), x)
        results |= {f"out_y_{name}": y, f"out_grad_x_{name}": backward(grad_out)[0]}
    return results


def contrastive_covariance(case, dtype):
    x1, x2, f1, f2 = (
        jnp.asarray(case[f"in_{n}"], dtype) for n in ("x1", "x2", "f1", "f2")
    )
    names = {"regular": "regular", "no_proj": "no_proj_patched", "no_l2": "no_l2"}

    @jax.jit
    def setting(temperature):
        found = covariances(x1, x2, f1, f2, temperature=temperature)
        return {
            f"out_{part}_{names[variant]}": array
            for variant, arrays in found.items()
            for part, array in zip(
                ("A", "B", "C_inter", "C_intra"), arrays, strict=True
            )
        }

    return _stack([setting(t) for t in case["hp_temperature"].tolist()])


CASES = {
    "ntxent": functools.partial(
        criterion, losses.nt_xent, ("z_i", "z_j"), {"temperature": "temperature"}
    ),
    "plain_criterion": functools.partial(
        criterion, losses.plain_loss, ("f1", "f2"), {"temperature": "temperature"}
    ),
    "uel_criterion": functools.partial(
        criterion,
        losses.uel_loss,
        ("f1", "f2"),
        {"temperature": "temperature", "neg_m": "negative_margin"},
    ),
    "alpha_cl": alpha_cl,
    "alpha_l2_reg": alpha_l2_reg,
    "alpha_quadratic_assignment": alpha_quadratic_assignment,
    "contrastive_covariance": contrastive_covariance,
}
WANTED = {"alpha_cl": alpha_cl_wanted}
