"""The goldens of the losses: contrast, alpha-CL, and CLAE's arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax import losses
from caco_jax.analysis.covariance import covariances
from caco_jax.losses import alpha_published, contrast


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


def _alpha_cl_setting(setting, zs, zjs, zis):
    (out_loss, out_intra), backward = jax.vjp(
        partial(_alpha_cl_parts, setting, zs), zjs, zis
    )
    one, none = jnp.ones_like(out_loss), jnp.zeros_like(out_loss)
    of_loss, of_total = backward((one, none)), backward((one, one))
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
    settings = [
        dict(zip(columns, row, strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    views = losses.l2_normalize(jnp.concatenate([zjs, zis]))
    results = _stack([_alpha_cl_setting(s, zs, zjs, zis) for s in settings])
    cosines = contrast.split_pairs(contrast.similarities(views, views))[1]
    return results | {"out_negatives_cosine": cosines}


def alpha_quadratic_assignment(case, dtype):
    distances = jnp.asarray(case["in_dists"], dtype)
    rows = [
        alpha_published.published_simplex_assignment(distances, temperature=tau)
        for tau in case["hp_tau"].tolist()
    ]
    return {"out_w": np.stack(rows)}


def alpha_l2_reg(case, dtype):
    x, grad_out = (jnp.asarray(case[f"in_{n}"], dtype) for n in ("x", "grad_out"))
    functions = {
        "only_mag": alpha_published.unit_without_projection,
        "regular": losses.l2_normalize,
    }
    results = {}
    for name, function in functions.items():
        y, backward = jax.vjp(function, x)
        results |= {f"out_y_{name}": y, f"out_grad_x_{name}": backward(grad_out)[0]}
    return results


def contrastive_covariance(case, dtype):
    x1, x2, f1, f2 = (
        jnp.asarray(case[f"in_{n}"], dtype) for n in ("x1", "x2", "f1", "f2")
    )
    names = {"regular": "regular", "no_proj": "no_proj_patched", "no_l2": "no_l2"}

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


# CLAE: its arithmetic on the golden's own networks, with no method around it.


def _linear(w, name, x):
    return x @ w[f"{name}_weight"].T + w[f"{name}_bias"][None, :]


def _conv(w, name, x, stride):
    return jax.lax.conv_general_dilated(
        x, w[f"{name}_weight"], (stride, stride), ((1, 1), (1, 1))
    )


def _norm(w, name, x):
    """BatchNorm in training over NCHW; also the statistics for its buffers."""
    per_channel = partial(jnp.reshape, shape=(1, -1, 1, 1))
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    y = (x - per_channel(mean)) / jnp.sqrt(per_channel(var) + 1e-5)
    y = y * per_channel(w[f"{name}_weight"]) + per_channel(w[f"{name}_bias"])
    count = x.size // x.shape[1]
    return y, {name: (mean, var * count / (count - 1))}


def _mlp(w, x, twin):
    x = jax.nn.relu(_linear(w, "fc1", x.reshape(len(x), -1)))
    x = _linear(w, "fc3", jax.nn.relu(_linear(w, "fc2", x)))
    return losses.l2_normalize(x), {}


def _convnet(w, x, twin):
    x, first = _norm(w, f"bn1{twin}", _conv(w, "conv1", x, 1))
    x, second = _norm(w, f"bn2{twin}", _conv(w, "conv2", jax.nn.relu(x), 2))
    x = jax.nn.relu(_linear(w, "fc1", jax.nn.relu(x).mean((2, 3))))
    return losses.l2_normalize(_linear(w, "fc2", x)), first | second


def _buffers(start, passes, momentum):
    """The running buffers once each pass's statistics are blended in, in turn."""
    buffers = dict(start)
    for name, (mean, var) in (item for stats in passes for item in stats.items()):
        rate = momentum["_adv" if name.endswith("_adv") else ""]
        for buffer, value in (("running_mean", mean), ("running_var", var)):
            old = buffers[f"{name}_{buffer}"]
            buffers[f"{name}_{buffer}"] = (1 - rate) * old + rate * value
        count = f"{name}_num_batches_tracked"
        buffers[count] = buffers[count] + 1
    return buffers


def clae(criterion, clean_first, repeats_first_view, case, dtype):
    encode = {"mlp": _mlp, "conv": _convnet}[str(case["hp_encoder"])]
    x1, x2 = jnp.asarray(case["in_x1"], dtype), jnp.asarray(case["in_x2"], dtype)
    arrays = {n[5:]: v for n, v in case.items() if n.startswith("in_w_")}
    is_buffer = {n: "running" in n or "num_batches" in n for n in arrays}
    weights = {n: jnp.asarray(v, dtype) for n, v in arrays.items() if not is_buffer[n]}
    buffers = {
        n: v if "num_batches" in n else jnp.asarray(v, dtype)
        for n, v in arrays.items()
        if is_buffer[n]
    }
    kinds = {"temperature": case["hp_temperature"].item()}
    if "hp_neg_m" in case:
        kinds["negative_margin"] = case["hp_neg_m"].item()
    crit = partial(criterion, **kinds)

    anchor, attack_pass = jax.jit(partial(encode, twin="_adv"))(weights, x1)

    def payoff(x):
        return crit(anchor, encode(weights, x, "_adv")[0])

    loss_gen, grad_x = jax.jit(jax.value_and_grad(payoff))(x1)
    x_adv = losses.fgsm_perturb(jax.jit(payoff), x1, epsilon=case["hp_eps"].item())

    def total(w):
        z_i, of_first = encode(w, x1, "")
        z_j, of_second = encode(w, x2, "")
        z_j_adv, of_adversarial = encode(w, x_adv, "_adv")
        clean, adversarial = crit(z_i, z_j), crit(z_i, z_j_adv)
        named = {"loss_clean": clean, "loss_adv": adversarial}
        named |= {"z_i": z_i, "z_j": z_j, "z_j_adv": z_j_adv}
        passes = [of_first, of_second, of_adversarial]
        return clean + case["hp_alpha"].item() * adversarial, (named, passes)

    (loss, (named, passes)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(
        weights
    )
    momentum = {
        "": case["hp_bn_momentum"].item(),
        "_adv": case["hp_bn_adv_momentum"].item(),
    }
    generation = [attack_pass, attack_pass]  # the anchor and the start are both x1
    again = passes[:1] if repeats_first_view else []
    before = passes[:1] if clean_first else []
    after_gen = _buffers(buffers, before + generation, momentum)
    after = _buffers(buffers, generation + passes[:2] + again + passes[2:], momentum)
    named |= {"loss_total": loss, "loss_gen": loss_gen}
    named |= {"grad_x": grad_x, "x_adv": x_adv}
    named |= {"z_i_gen": anchor, "z_adv_start": anchor}
    named |= {f"grad_w_{n}": g for n, g in grads.items()}
    named |= {f"w_{n}": v for n, v in after.items()}
    named |= {f"after_gen_{n}": v for n, v in after_gen.items()}
    return {f"out_{n}": v for n, v in named.items()}


CLAE = {
    "fgsm": partial(clae, losses.nt_xent, True, False),
    "plain": partial(clae, losses.plain_loss, False, True),
    "uel": partial(clae, losses.uel_loss, False, False),
}

CASES = {
    "ntxent": ntxent,
    "plain_criterion": plain_criterion,
    "uel_criterion": uel_criterion,
    "alpha_cl": alpha_cl,
    "alpha_l2_reg": alpha_l2_reg,
    "alpha_quadratic_assignment": alpha_quadratic_assignment,
    "contrastive_covariance": contrastive_covariance,
} | {
    f"clae_{host}_{net}": function
    for host, function in CLAE.items()
    for net in ("mlp", "conv")
}
