"""Whole train steps: banks, start-up, target encoder (goldens README 1 to 6 and 14)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from caco_jax import methods
from caco_jax.interop.torch_weights import from_torch, to_torch
from caco_jax.losses import adco_loss, caco_loss, l2_normalize, nearest_entries
from caco_jax.methods.method import Context, Encode, Network, View
from caco_jax.nets import BatchNorm, Encoder, caco_projector, mlp_projector
from caco_jax.optim import optimizers
from caco_jax.training.encode import make_encode
from caco_jax.training.loop import hand_over
from caco_jax.training.state import TrainState, create_state
from caco_jax.training.step import make_optimizer, make_train_step

# Compiled whole: alone, each operation would be compiled by itself.
caco_game, adco_game, unit = map(jax.jit, (caco_loss, adco_loss, l2_normalize))
nearest = jax.jit(nearest_entries)

KEY = jax.random.PRNGKey(0)  # of nothing: these steps draw no random numbers
BATCH_COUNT = "num_batches_tracked"


def as_dtype(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def table_encode(network, view):
    """An "encoder" whose parameters are the embeddings; "images" number their rows."""
    embeddings, network = unit_table_encode(network, view)
    return l2_normalize(embeddings), network


def unit_table_encode(network, view):
    """The same where the parameters are unit rows already."""
    table = network.params.reshape(-1, network.params.shape[-1])  # [V N, C]
    return table[view.images], network


def observed(method):
    """The method, with every embedding it makes among its metrics."""

    def payoff(players, context, views):
        seen = {}

        def recording(kind, encode):
            def record(network, view):
                embedding, network = encode(network, view)
                seen[f"{kind}_{sum(k.startswith(kind) for k in seen)}"] = embedding
                return embedding, network

            return record

        encode = Encode(
            recording("online", context.encode.online),
            recording("target", context.encode.target),
        )
        loss, outcome = method.payoff(players, context._replace(encode=encode), views)
        return loss, outcome._replace(metrics={**outcome.metrics, **seen})

    return method._replace(payoff=payoff)


def embedding_case(case, dtype, method, *, emb, keys, weight_decay, momentum):
    """Consecutive steps on tables of embeddings [S, V, N, C]; only the bank stays."""
    rows_of_views = jnp.arange(emb.shape[1] * emb.shape[2]).reshape(emb.shape[1:3])
    views = [View(row_numbers) for row_numbers in rows_of_views]
    rate = float(case["hp_encoder_sgd_lr"])
    optimizer = make_optimizer(
        method,
        {
            "encoder": optimizers.sgd(rate, momentum=0.0, weight_decay=0.0),
            "bank": optimizers.sgd(
                float(case["hp_memory_lr"]),
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        },
    )
    encode = Encode(table_encode, unit_table_encode)
    step = jax.jit(
        make_train_step(
            method,
            encode=encode,
            make_views=lambda key, images: images,
            optimizer=optimizer,
            target_momentum=lambda step: 1.0,
            key=KEY,
        )
    )

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.grad, argnums=1)
    def gradients(online_encode, players, target, extra):
        context = Context({}, target, extra, Encode(online_encode, unit_table_encode))
        return method.payoff(players, context, views)[0]

    bank = jnp.asarray(case["in_W0"].T, dtype)
    state = start_state(method, optimizer, emb[0], bank, case["in_v0"].T, dtype)
    rows = []
    for step_emb, step_keys in zip(emb, keys, strict=True):
        players = {**state.players, "encoder": step_emb}
        state = state._replace(players=players, target=Network(step_keys, {}))
        of_unit = {**players, "encoder": unit(step_emb)}
        rest = state.target, state.extra
        unit_gradients = gradients(unit_table_encode, of_unit, *rest)
        raw_gradients = gradients(table_encode, players, *rest)
        before = players["bank"]
        state, metrics = step(state, [view.images for view in views])
        rows.append(
            {
                "out_q_pred": of_unit["encoder"],
                "out_grad_q_pred": unit_gradients["encoder"],
                "out_grad_emb": raw_gradients["encoder"],
                "emb_after": state.players["encoder"],
                "out_loss": metrics["loss"],
                "out_g": -raw_gradients["bank"].T,
                "out_W": state.players["bank"].T,
                "out_v": velocity(state, "bank").T,
                "bank_before": before,
                "metrics": metrics,
            }
        )
    return rows


def start_state(method, optimizer, encoder, bank, bank_velocity, dtype):
    """A train state that begins with a given bank and velocity."""
    players = {"encoder": encoder, "bank": bank}
    state = create_state(KEY, method, Network(encoder, {}), optimizer)
    state = state._replace(players=players, opt_state=optimizer.init(players))
    inner = dict(state.opt_state.inner_states)
    inner["bank"] = jax.tree.map(
        lambda leaf: (
            jnp.asarray(bank_velocity, dtype) if leaf.shape == bank.shape else leaf
        ),
        inner["bank"],
    )
    return state._replace(opt_state=state.opt_state._replace(inner_states=inner))


def velocity(state, player):
    """The heavy-ball buffer of a player, from its optimiser's state."""
    (trace,) = (
        part.trace[player]
        for part in jax.tree.leaves(
            state.opt_state.inner_states[player],
            is_leaf=lambda part: isinstance(part, optax.TraceState),
        )
        if isinstance(part, optax.TraceState)
    )
    return trace


def stack(rows, *names):
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in names}


def percent_within(rank, top):
    return float(np.mean(np.asarray(rank) < top) * 100)


STEP_ARRAYS = ("out_q_pred", "out_grad_q_pred", "out_grad_emb", "out_loss", "out_g")


def caco_method(case, bank_size, dim):
    make = methods.caco(
        bank_size=bank_size,
        temperature=float(case["hp_moco_t"]),
        bank_temperature=float(case["hp_mem_t"]),
    )
    return make(dim)


def caco_sym(case, dtype):
    emb = jnp.asarray(np.stack([case["in_q_emb"], case["in_k_emb"]], 1), dtype)
    keys = jnp.asarray(np.stack([case["in_q_key"], case["in_k_key"]], 1), dtype)
    method = caco_method(case, case["in_W0"].shape[1], emb.shape[-1])
    momentum = float(case["hp_mem_momentum"])
    rows = embedding_case(
        case, dtype, method, emb=emb, keys=keys, weight_decay=0.0, momentum=momentum
    )
    results = stack(rows, "out_loss", "out_g", "out_W", "out_v")
    for v, name in enumerate("qk"):
        results |= {
            f"out_{name}_pred": np.stack([r["out_q_pred"][v] for r in rows]),
            f"out_grad_{name}_pred": np.stack([r["out_grad_q_pred"][v] for r in rows]),
            f"out_grad_{name}_emb": np.stack([r["out_grad_emb"][v] for r in rows]),
            f"out_{name}_emb_after": np.stack([r["emb_after"][v] for r in rows]),
        }
        logged = []
        for s, row in enumerate(rows):
            positives = nearest(keys[s, 1 - v], row["bank_before"])
            aux = caco_logged(case, row["out_q_pred"][v], positives, row["bank_before"])
            logged.append((positives, aux))
        results[f"out_pos_{name}"] = np.stack([positives for positives, _ in logged])
        for top in (1, 5):
            results[f"out_acc{top}_{name}"] = np.stack(
                [percent_within(aux.positive_rank, top) for _, aux in logged]
            )
        if name == "q":
            results["out_posi_prob"] = np.stack(
                [aux.positive_probability.mean() for _, aux in logged]
            )
    return results


def caco_logged(case, queries, positives, bank):
    return caco_game(
        queries,
        positives,
        bank,
        temperature=float(case["hp_moco_t"]),
        bank_temperature=float(case["hp_mem_t"]),
    )[1]


def caco_multicrop(case, dtype):
    emb, keys = (jnp.asarray(case[f"in_{name}"], dtype) for name in ("emb", "key"))
    method = caco_method(case, case["in_W0"].shape[1], emb.shape[-1])
    momentum = float(case["hp_mem_momentum"])
    # The target's table has as many rows as the online one's; nobody reads the rest.
    table = jnp.pad(keys, ((0, 0), (0, emb.shape[1] - 2), (0, 0), (0, 0)))
    rows = embedding_case(
        case, dtype, method, emb=emb, keys=table, weight_decay=0.0, momentum=momentum
    )
    results = stack(rows, *STEP_ARRAYS, "out_W", "out_v")
    logged = []
    for s, row in enumerate(rows):
        bank, queries = row["bank_before"], row["out_q_pred"]
        positives = [nearest(key, bank) for key in keys[s]]
        pair, own = (caco_logged(case, queries[0], positives[j], bank) for j in (1, 0))
        logged.append(
            {
                "out_pos": np.stack(positives),
                "out_loss_big": row["metrics"]["cross_entropy"],
                "out_loss_mini": row["out_loss"] - row["metrics"]["cross_entropy"],
                "out_loss_logged": -jnp.log(pair.encoder_positive_probability).mean(),
                "out_posi_prob": own.encoder_positive_probability.mean(),
                "out_acc1": percent_within(pair.positive_rank, 1),
                "out_acc5": percent_within(pair.positive_rank, 5),
            }
        )
    return results | stack(logged, *logged[0])


def adco_case(case, dtype, *, symmetric):
    emb, keys = (jnp.asarray(case[f"in_{name}"], dtype) for name in ("emb", "key"))
    crops, num_keys = emb.shape[1], keys.shape[1]
    if not symmetric:  # the key view is no query: a place in the table that none reads
        before = 0 if crops == 1 else 1
        emb = jnp.pad(emb, ((0, 0), (before, 1 - before), (0, 0), (0, 0)))
        keys = jnp.repeat(keys, emb.shape[1], axis=1)
    temperatures = {
        "temperature": float(case["hp_moco_t"]),
        "bank_temperature": float(case["hp_mem_t"]),
    }
    method = methods.adco(
        bank_size=case["in_W0"].shape[1], symmetric=symmetric, **temperatures
    )(emb.shape[-1])
    rows = embedding_case(
        case,
        dtype,
        method,
        emb=emb,
        keys=keys,
        weight_decay=float(case["hp_mem_wd"]),
        momentum=float(case["hp_momentum"]),
    )
    results = stack(rows, *STEP_ARRAYS, "out_W", "out_v")
    if not symmetric:
        queries = slice(before, before + crops)
        for name in ("out_q_pred", "out_grad_q_pred", "out_grad_emb"):
            results[name] = results[name][:, queries]
    logged = []
    for s, row in enumerate(rows):
        aux = [
            adco_game(
                results["out_q_pred"][s, v],
                keys[s, 1 - v if symmetric else 0],
                row["bank_before"],
                **temperatures,
            )[1]
            for v in range(num_keys)
        ]
        logged.append(
            {
                "out_batch_prob": np.mean([a.batch_probability.mean() for a in aux]),
                "out_acc1": np.stack([percent_within(a.positive_rank, 1) for a in aux]),
                "out_acc5": np.stack([percent_within(a.positive_rank, 5) for a in aux]),
                "out_loss_logged": (
                    row["out_loss"] if symmetric else row["metrics"]["cross_entropy"]
                ),
            }
        )
    return results | stack(logged, *logged[0])


class TinyBackbone(nn.Module):
    """The goldens' lin0, bn0, ReLU."""

    width: int
    param_dtype: type

    @nn.compact
    def __call__(self, images, *, train, branch="clean"):
        x = nn.Dense(self.width, param_dtype=self.param_dtype, name="lin0")(images)
        norm = BatchNorm(param_dtype=self.param_dtype, name="bn0")
        return nn.relu(norm(x, train=train, branch=branch))


def tiny_encoder(case, dtype):
    """The case's small network and how to read and write its two states."""
    widths = [
        case[name].shape[0]
        for name in sorted(case)
        if name.startswith("in_q0_fc_") and case[name].ndim == 2
    ]
    if "in_q0_fc_1_weight" in case:
        projector = caco_projector(widths[0], widths[-1], param_dtype=dtype)
    else:
        projector = mlp_projector(*widths, param_dtype=dtype)
    backbone = TinyBackbone(case["in_q0_lin0_weight"].shape[0], dtype)
    return Encoder(backbone, projector)


def read_network(case, prefix, encoder, dtype):
    inputs = jnp.zeros((2, case["in_q0_lin0_weight"].shape[1]), dtype)
    template = jax.eval_shape(functools.partial(encoder.init, train=True), KEY, inputs)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    names = [name for name in to_torch(zeros) if not name.endswith(BATCH_COUNT)]
    state = {name: case[prefix + name.replace(".", "_")] for name in names}
    variables = jax.tree.map(jnp.asarray, from_torch(state, template))
    return Network(variables["params"], variables["batch_stats"])


def write_network(network, prefix, passes):
    variables = {"params": network.params, "batch_stats": network.stats}
    return {
        prefix + name.replace(".", "_"): passes if name.endswith(BATCH_COUNT) else array
        for name, array in to_torch(variables).items()
    }


def write_params(params, prefix):
    return {
        prefix + name.replace(".", "_"): array
        for name, array in to_torch({"params": params}).items()
    }


def network_step(method, encoder, optimizer, target_momentum):
    """The real step on given views, compiled; its embeddings are among its metrics."""
    return jax.jit(
        make_train_step(
            observed(method),
            encode=make_encode(encoder),
            make_views=lambda key, images: images,
            optimizer=optimizer,
            target_momentum=target_momentum,
            key=KEY,
        )
    )


def network_state(method, optimizer, online, target, bank, extra):
    players = {"encoder": online.params, "bank": bank}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        players=players,
        stats=online.stats,
        target=target,
        extra=extra,
        opt_state=optimizer.init(players),
    )


def bank_init(case, dtype):
    encoder = tiny_encoder(case, dtype)
    online, target = (
        read_network(case, f"in_{name}0_", encoder, dtype) for name in "qk"
    )
    bank = jnp.asarray(case["in_W0"].T, dtype)
    if "in_x1" in case:
        batches = jnp.asarray(np.stack([case["in_x1"], case["in_x2"]], 1), dtype)
        method = methods.caco(
            bank_size=len(bank), start_up_temperature=float(case["hp_temperature"])
        )(bank.shape[1])
        hp = {k[8:]: float(v) for k, v in case.items() if k.startswith("hp_lars_")}
        transformation = optimizers.lars(
            hp["lr"],
            momentum=hp["momentum"],
            weight_decay=hp["weight_decay"],
            trust_coefficient=hp["trust_coefficient"],
        )
    else:
        batches = jnp.asarray(case["in_x"], dtype)
        method = methods.adco(
            bank_size=len(bank),
            temperature=float(case["hp_moco_t"]),
            symmetric=str(case["hp_variant"]) == "sym",
        )(bank.shape[1])
        transformation = optimizers.sgd(
            float(case["hp_sgd_lr"]),
            momentum=float(case["hp_sgd_momentum"]),
            weight_decay=float(case["hp_sgd_weight_decay"]),
        )
    phase = method.start_up
    optimizer = make_optimizer(phase.method, {"encoder": transformation})
    momentum = phase.target_momentum or float(case["hp_key_momentum"])
    assert momentum == float(case["hp_key_momentum"])
    step = network_step(phase.method, encoder, optimizer, lambda step: momentum)
    _, extra = phase.method.init(KEY)
    state = network_state(phase.method, optimizer, online, target, bank, extra)
    steps = min(-(-phase.examples // batches.shape[2]), len(batches))
    rows = []
    for batch in batches[:steps]:
        used = state.players["bank"]
        state, metrics = step(state, list(batch))
        passes = {
            kind: sum(name.startswith(kind) for name in metrics)
            for kind in ("online", "target")
        }
        query, key = metrics["online_0"], metrics[f"target_{passes['target'] - 1}"]
        query, key, used_rows = jax.device_get((query, key, unit(used)))
        positive = np.einsum("nd,nd->n", query, key)
        best = np.max(query @ used_rows.T, axis=1)
        rows.append(
            {
                "out_q": query,
                "out_k": key,
                "out_W_used": used.T,
                "out_loss": metrics["loss"],
                "out_acc1": percent_within(best > positive, 1),
            }
        )
    fresh_optimizer = make_optimizer(
        method,
        {
            "encoder": transformation,
            "bank": optimizers.sgd(1.0, momentum=0.9, weight_decay=0.0),
        },
    )
    fresh = network_state(method, fresh_optimizer, online, target, bank, {})
    final = hand_over(state, fresh)
    results = stack(rows, *rows[0])
    results |= {
        "out_num_steps": np.asarray(steps),
        "out_W_final": final.players["bank"].T,
        "out_v_final": velocity(final, "bank").T,
    }
    network = Network(final.players["encoder"], final.stats)
    results |= write_network(network, "out_q_final_", passes["online"] * steps)
    results |= write_network(final.target, "out_k_final_", passes["target"] * steps)
    trace = velocity(final, "encoder")
    return results | write_params(trace, "out_lars_mu_")


def moco_ema(case, dtype):
    """The order of a forward pass, through a step in which nobody moves."""
    encoder = tiny_encoder(case, dtype)
    online, target = (
        read_network(case, f"in_{name}0_", encoder, dtype) for name in "qk"
    )
    bank = jnp.ones((2, case["in_q0_fc_6_weight"].shape[0]), dtype)
    method = methods.caco(bank_size=2)(bank.shape[1])
    still = method._replace(moves=dict.fromkeys(method.moves, "hold"))
    optimizer = make_optimizer(still, {})
    momenta = jnp.asarray(case["hp_moco_momentum"], dtype)
    step = network_step(still, encoder, optimizer, lambda step: momenta[step])
    _, extra = method.init(KEY)
    state = network_state(still, optimizer, online, target, bank, extra)
    results = {}
    for s in range(len(momenta)):
        delta = read_params(case, f"in_delta{s}_", encoder, state, dtype)
        moved = jax.tree.map(jnp.add, state.players["encoder"], delta)
        state = state._replace(players={**state.players, "encoder": moved})
        views = [jnp.asarray(case[f"in_x{v}_{s}"], dtype) for v in (1, 2)]
        state, metrics = step(state, views)
        for v, name in enumerate("qk"):
            results[f"out_{name}_pred_{s}"] = metrics[f"online_{v}"]
            results[f"out_{name}_key_{s}"] = metrics[f"target_{v}"]
        passes = 2 * (s + 1)
        results |= write_network(state.target, f"out_k_after{s}_", passes)
        network = Network(state.players["encoder"], state.stats)
        results |= write_network(network, f"out_q_after{s}_", passes)
    return results


def read_params(case, prefix, encoder, state, dtype):
    """Parameters alone, in the structure of the state's encoder."""
    template = {"params": state.players["encoder"]}
    names = to_torch(template)
    given = {name: case[prefix + name.replace(".", "_")] for name in names}
    return jax.tree.map(jnp.asarray, from_torch(given, template)["params"])


def caco_e2e(case, dtype):
    encoder = tiny_encoder(case, dtype)
    online, target = (
        read_network(case, f"in_{name}0_", encoder, dtype) for name in "qk"
    )
    bank = jnp.asarray(case["in_W0"].T, dtype)
    method = caco_method(case, *bank.shape)
    rates, bank_rates, momenta = (
        jnp.asarray(case[f"hp_{name}"], dtype)
        for name in ("lars_lr", "memory_lr", "moco_momentum")
    )
    optimizer = make_optimizer(
        method,
        {
            "encoder": optimizers.lars(
                lambda count: rates[count],
                momentum=float(case["hp_lars_momentum"]),
                weight_decay=float(case["hp_lars_weight_decay"]),
                trust_coefficient=float(case["hp_lars_trust_coefficient"]),
            ),
            "bank": optimizers.sgd(
                lambda count: bank_rates[count],
                momentum=float(case["hp_mem_momentum"]),
                weight_decay=0.0,
            ),
        },
    )
    step = network_step(method, encoder, optimizer, lambda step: momenta[step])
    _, extra = method.init(KEY)
    state = network_state(method, optimizer, online, target, bank, extra)
    batches = jnp.asarray(np.stack([case["in_x1"], case["in_x2"]], 1), dtype)
    results = write_params(
        first_gradient(method, encoder, state, batches[0]), "out_grad_step0_"
    )
    rows = []
    for s, batch in enumerate(batches):
        before = state.players["bank"]
        state, metrics = step(state, list(batch))
        positives = [nearest(metrics[f"target_{v}"], before) for v in (1, 0)]
        aux = caco_logged(case, metrics["online_0"], positives[0], before)
        rows.append(
            {
                "out_loss": metrics["loss"],
                "out_W": state.players["bank"].T,
                "out_v": velocity(state, "bank").T,
                "out_pos_q": positives[0],
                "out_pos_k": positives[1],
                "out_posi_prob": aux.positive_probability.mean(),
            }
        )
        passes = 2 * (s + 1)
        network = Network(state.players["encoder"], state.stats)
        results |= write_network(network, f"out_q_after{s}_", passes)
        results |= write_network(state.target, f"out_k_after{s}_", passes)
    return results | stack(rows, *rows[0])


def first_gradient(method, encoder, state, batch):
    """The encoder's gradient at the start, where the target equals the encoder."""
    context = Context(state.stats, state.target, state.extra, make_encode(encoder))
    views = [View(view) for view in batch]

    @jax.jit
    @jax.grad
    def gradient(players):
        return method.payoff(players, context, views)[0]

    return gradient(state.players)["encoder"]


CASES = {
    "moco_ema": moco_ema,
    "caco_e2e": caco_e2e,
    "caco_sym": caco_sym,
    "caco_multicrop": caco_multicrop,
    "adco": functools.partial(adco_case, symmetric=False),
    "adco_sym": functools.partial(adco_case, symmetric=True),
    "adco_multicrop": functools.partial(adco_case, symmetric=False),
    "bank_init_caco": bank_init,
    "bank_init_caco_short_loader": bank_init,
    "bank_init_adco": bank_init,
    "bank_init_adco_sym": bank_init,
    "bank_init_adco_multicrop": bank_init,
}
