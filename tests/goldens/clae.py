"""CLAE through the wrapper and the real train step (goldens README 11)."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from caco_jax import methods
from caco_jax.losses import l2_normalize
from caco_jax.methods.adversarial import adversarial, perturb
from caco_jax.methods.method import Context, Encode, Network, View
from caco_jax.nets import BatchNorm
from caco_jax.optim import optimizers
from caco_jax.training.encode import make_encode
from caco_jax.training.state import create_state
from caco_jax.training.step import make_optimizer, make_train_step
from tests.goldens.steps import KEY, observed, velocity


class Mlp(nn.Module):
    """The goldens' encoder without norms; images are [N, C, H, W], as in the files."""

    widths: dict

    @nn.compact
    def __call__(self, images, *, train, branch="clean"):
        x = images.reshape(len(images), -1)
        for name in ("fc1", "fc2", "fc3"):
            x = x if name == "fc1" else nn.relu(x)
            x = nn.Dense(self.widths[name], param_dtype=x.dtype, name=name)(x)
        return x


class Convnet(nn.Module):
    """The goldens' encoder with two norms and their twins."""

    widths: dict
    momentum: float
    adversarial_momentum: float

    @nn.compact
    def __call__(self, images, *, train, branch="clean"):
        x, dtype = images.transpose(0, 2, 3, 1), images.dtype
        for i, stride in ((1, 1), (2, 2)):
            x = nn.Conv(
                self.widths[f"conv{i}"],
                (3, 3),
                strides=stride,
                padding=1,
                use_bias=False,
                param_dtype=dtype,
                name=f"conv{i}",
            )(x)
            norm = BatchNorm(
                momentum=self.momentum,
                adversarial_branch=True,
                adversarial_momentum=self.adversarial_momentum,
                param_dtype=dtype,
                name=f"bn{i}",
            )
            x = nn.relu(norm(x, train=train, branch=branch))
        x = nn.Dense(self.widths["fc1"], param_dtype=dtype, name="fc1")(x.mean((1, 2)))
        return nn.Dense(self.widths["fc2"], param_dtype=dtype, name="fc2")(nn.relu(x))


LEAVES = {
    "weight": "scale",
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
}


def place(name):
    """Where the golden's array lies: (collection, module, leaf, axes of its copy)."""
    module, _, leaf = name.partition("_")
    if module.startswith("bn"):
        twin = "adversarial_" if leaf.startswith("adv_") else ""
        leaf = leaf.removeprefix("adv_")
        collection = "batch_stats" if leaf.startswith("running") else "params"
        return collection, module, twin + LEAVES[leaf], (0,)
    axes = {"conv": (2, 3, 1, 0), "fc": (1, 0)}[module.rstrip("123")]
    return (
        ("params", module, "bias", (0,))
        if leaf == "bias"
        else (
            "params",
            module,
            "kernel",
            axes,
        )
    )


def to_variables(arrays, dtype):
    variables = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        collection, module, leaf, axes = place(name)
        moved = jnp.asarray(array, dtype).transpose(axes)
        variables[collection].setdefault(module, {})[leaf] = moved
    return Network(variables["params"], variables["batch_stats"])


def from_variables(variables, names):
    arrays = {}
    for name in names:
        collection, module, leaf, axes = place(name)
        array = np.asarray(variables[collection][module][leaf])
        arrays[name] = array.transpose(np.argsort(axes))
    return arrays


def make_encoder(case):
    widths = {
        name.split("_")[2]: array.shape[0]
        for name, array in case.items()
        if name.startswith("in_w_") and name.endswith("_weight")
    }
    if str(case["hp_encoder"]) == "mlp":
        return Mlp(widths)
    return Convnet(
        widths, case["hp_bn_momentum"].item(), case["hp_bn_adv_momentum"].item()
    )


def make_host(stem, case):
    settings = {"temperature": case["hp_temperature"].item()}
    if "_fgsm_" in stem:
        return methods.simclr(**settings)(0)
    if "_plain_" in stem:
        return methods.plain(**settings)(0)
    return methods.uel(**settings, negative_margin=float(case["hp_neg_m"]))(0)


def counted(encode, passes):
    """The encoder, counting the passes through each branch while it is traced."""

    def online(network, view):
        passes[view.branch] += 1
        return encode.online(network, view)

    return Encode(online, encode.target)


def recompute(stem, case, dtype):
    """Every array that the golden expects, by its name."""
    encoder, host = make_encoder(case), make_host(stem, case)
    epsilon = case["hp_eps"].item()
    x1, x2 = (jnp.asarray(case[f"in_{name}"], dtype) for name in ("x1", "x2"))
    arrays = {n.removeprefix("in_w_"): a for n, a in case.items() if "in_w_" in n}
    counters = [n for n in arrays if n.endswith("num_batches_tracked")]
    network = to_variables({n: arrays[n] for n in arrays if n not in counters}, dtype)
    parameters = [n for n in arrays if n not in counters and "running" not in n]
    buffers = [n for n in arrays if "running" in n]

    wrapped = adversarial(
        observed(host),
        epsilon=epsilon,
        weight=case["hp_alpha"].item(),
        reencode_clean=host.name == "plain",
    )
    passes = collections.Counter()
    plain_sgd = optimizers.sgd(0.1, momentum=0.9, weight_decay=0.0)
    optimizer = make_optimizer(wrapped, {"encoder": plain_sgd})
    step = make_train_step(
        wrapped,
        encode=counted(make_encode(encoder), passes),
        make_views=lambda key, images: images,
        optimizer=optimizer,
        target_momentum=lambda step: 1.0,
        key=KEY,
    )
    state = create_state(KEY, wrapped, network, optimizer)
    state, metrics = jax.jit(step)(state, [x1, x2])
    after = {"params": state.players["encoder"], "batch_stats": state.stats}
    gradients = {"params": velocity(state, "encoder")}  # of a first step, the gradient

    def attack(network):
        encode = make_encode(encoder)
        if host.name == "simclr":  # whose code embeds view 1 before it attacks
            _, network = encode.online(network, View(x1))
        anchor, _ = encode.online(network, View(x1, "adversarial"))
        context = Context(network.stats, None, {}, encode)
        players, views = {"encoder": network.params}, [View(x1), View(x2)]
        found = perturb(host, players, context, views, epsilon=epsilon)
        return l2_normalize(anchor), found

    anchor, found = jax.jit(attack)(network)
    results = {
        "loss_gen": found.payoff,
        "grad_x": found.gradient,
        "x_adv": found.images,
        "z_i_gen": anchor,
        "z_adv_start": anchor,
        "loss_clean": metrics["clean_loss"],
        "loss_adv": metrics["adversarial_loss"],
        "loss_total": metrics["loss"],
        "z_i": metrics["online_0"],
        "z_j": metrics["online_1"],
        "z_j_adv": metrics["adversarial_online_1"],
    }
    named = from_variables(gradients, parameters)
    results |= {f"grad_w_{name}": array for name, array in named.items()}
    results |= {f"w_{n}": array for n, array in from_variables(after, buffers).items()}
    after_attack = from_variables({"batch_stats": found.stats}, buffers)
    results |= {f"after_gen_{name}": array for name, array in after_attack.items()}
    for name in counters:
        branch = "adversarial" if "_adv_" in name else "clean"
        results[f"w_{name}"] = arrays[name] + passes[branch]
    return {f"out_{name}": np.asarray(array) for name, array in results.items()}


CASES = {
    stem: functools.partial(recompute, stem)
    for stem in (
        f"clae_{host}_{net}"
        for host in ("fgsm", "plain", "uel")
        for net in ("mlp", "conv")
    )
}
