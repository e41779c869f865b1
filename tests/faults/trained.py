"""Faults of what trains: losses, methods, optimisers, networks, steps."""

from tests.faults.fault import Fault

LOSSES = [
    Fault(
        "the two players' temperatures are swapped",
        "losses/bank.py",
        "numbers.append(bank_temperature)",
        "numbers.insert(0, bank_temperature)",
        (
            "losses/test_bank.py::test_queries_share_a_positive_and_leave_entries_without",
        ),
    ),
    Fault(
        "the positive is pulled with p, not 1 - p",
        "losses/_stream.py",
        "jnp.where(positive, 1 - weights, weights)",
        "jnp.where(positive, weights, weights)",
        (
            "losses/test_bank.py::test_queries_share_a_positive_and_leave_entries_without",
        ),
    ),
    Fault(
        "the bank's move lacks one over the row's length",
        "losses/_stream.py",
        "(move,) = to_raw(how.dot(weights, force, (1, 0)))",
        "(move,) = to_raw(how.dot(weights, force, (1, 0)))\n"
        "        move *= jnp.linalg.norm(block, axis=1, keepdims=True)",
        (
            "losses/test_bank.py::test_queries_share_a_positive_and_leave_entries_without",
        ),
    ),
    Fault(
        "of entries that tie in a block the last is nearest",
        "losses/_stream.py",
        "jnp.min(jnp.where(scores == top[None, :], index, len(block)), axis=0)",
        "jnp.max(jnp.where(scores == top[None, :], index, -1), axis=0)",
        ("losses/test_bank.py::test_of_entries_that_tie_the_first_is_nearest",),
    ),
    Fault(
        "the log-sum-exp of the devices is counted twice",
        "losses/_game.py",
        "masses, above = lax.psum((state.masses, state.above), axes)",
        "masses, above = lax.psum((state.masses, state.above), axes)\n"
        "    masses = jax.tree.map(lambda mass: 2 * mass, masses)",
        ("losses/test_bank_sharded.py::test_a_mesh_changes_no_number",),
    ),
    Fault(
        "the nearest entry of a device is numbered from its own first",
        "losses/_game.py",
        "index += lax.axis_index(axes) * bank.shape[0]",
        "index += 0 * lax.axis_index(axes) * bank.shape[0]",
        ("losses/test_bank_sharded.py::test_a_mesh_changes_no_number",),
    ),
    Fault(
        "a gradient flows into MoCo's keys",
        "losses/contrast.py",
        "keys, queue = jax.lax.stop_gradient((keys, queue))",
        "queue = jax.lax.stop_gradient(queue)",
        ("losses/test_contrast.py::test_moco_moves_queries_only",),
    ),
    Fault(
        "UEL's gradient reaches both factors",
        "losses/contrast.py",
        "similarities(views, jax.lax.stop_gradient(views))",
        "similarities(views, views)",
        ("losses/test_contrast.py",),
    ),
    Fault(
        "FGSM moves along the gradient, not its sign",
        "losses/adversarial.py",
        "uphill = jnp.sign(jax.grad(scalar_payoff)(images))",
        "uphill = jax.grad(scalar_payoff)(images)",
        ("losses/test_adversarial.py",),
    ),
    Fault(
        "FGSM clips to [0, 1]",
        "losses/adversarial.py",
        "images + jnp.asarray(epsilon, images.dtype) * uphill",
        "jnp.clip(images + jnp.asarray(epsilon, images.dtype) * uphill, 0, 1)",
        ("losses/test_adversarial.py",),
    ),
    Fault(
        "α's rows are not normalised",
        "losses/alpha_cl.py",
        "return jnp.exp(logs - jnp.logaddexp(sums, extra))",
        "return jnp.exp(logs - jnp.logaddexp(0 * sums, extra))",
        ("losses/test_alpha_cl.py::test_normalisations",),
    ),
    Fault(
        "a gradient flows through α",
        "losses/alpha_cl.py",
        "_weights(negatives, importance, constant=constant_weights)\n    inter",
        "importance(negatives)\n    inter",
        ("losses/test_alpha_cl.py::test_weights_are_constants",),
    ),
    Fault(
        "the contrastive covariance sums α over the other axis",
        "losses/alpha.py",
        "own = jnp.sum(without_diagonal(alpha), axis=1)",
        "own = jnp.sum(without_diagonal(alpha.T), axis=1)",
        (
            "losses/test_alpha.py::"
            "test_covariance_equals_a_loop_and_its_trace_is_twice_the_energy",
        ),
    ),
]

METHODS = [
    Fault(
        "CaCo's positive is chosen by the query's own view",
        "methods/caco.py",
        "interleave_rows([positives[key] for _, key in pairs])",
        "interleave_rows([positives[1 - key] for _, key in pairs])",
        ("methods/test_caco.py",),
    ),
    Fault(
        "MoCo's keys are in the queue before they are scored",
        "methods/moco.py",
        '                context.extra["queue"],\n',
        "                enqueue(**context.extra, keys=found.keys[key])[0],\n",
        (
            "methods/test_moco.py::"
            "test_the_loss_is_info_nce_of_the_other_views_key_and_the_queue",
        ),
    ),
    Fault(
        "MoCo's next row is one too far",
        "methods/moco.py",
        "return queue, (next_row + keys.shape[0]) % size",
        "return queue, (next_row + keys.shape[0] + 1) % size",
        (
            "methods/test_moco.py::test_the_queue_is_first_in_first_out_whatever_divides_it",
        ),
    ),
    Fault(
        "start-up fills from the second row",
        "methods/start_up.py",
        'rows = extra["next_row"] + jnp.arange(keys.shape[0])',
        'rows = extra["next_row"] + 1 + jnp.arange(keys.shape[0])',
        (
            "methods/test_start_up.py::"
            "test_keys_fill_the_rows_in_turn_and_the_last_batch_is_cut",
        ),
    ),
    Fault(
        "start-up drops a last batch that does not fit",
        "methods/start_up.py",
        'bank = bank.at[rows].set(keys.astype(bank.dtype), mode="drop")',
        "rows = jnp.where(rows[-1] < bank_size, rows, bank_size)\n"
        '        bank = bank.at[rows].set(keys.astype(bank.dtype), mode="drop")',
        (
            "methods/test_start_up.py::"
            "test_keys_fill_the_rows_in_turn_and_the_last_batch_is_cut",
        ),
    ),
    Fault(
        "CLAE's images go through the clean BatchNorm",
        "methods/adversarial.py",
        "pair = [View(images, ADVERSARIAL), partner]",
        "pair = [View(images), partner]",
        ("methods/test_adversarial.py",),
    ),
    Fault(
        "CLAE's weight is left out",
        "methods/adversarial.py",
        "return clean + weight * hard, Outcome(",
        "return clean + hard, Outcome(",
        ("methods/test_adversarial.py",),
    ),
]

OPTIM = [
    Fault(
        "a player that climbs goes down",
        "optim/optimizers.py",
        "return optax.chain(optax.scale(-1.0), tx)",
        "return tx",
        ("optim/test_optimizers.py::test_ascend_turns_the_gradient_and_not_the_decay",),
    ),
    Fault(
        "SGD's decay comes after its momentum",
        "optim/optimizers.py",
        "        optax.add_decayed_weights(weight_decay),\n"
        "        optax.trace(momentum),\n",
        "        optax.trace(momentum),\n"
        "        optax.add_decayed_weights(weight_decay),\n",
        (
            "optim/test_optimizers.py::"
            "test_sgd_is_heavy_ball_with_decay_in_the_gradient",
        ),
    ),
    Fault(
        "LARS decays and scales biases",
        "optim/optimizers.py",
        "optax.masked(decay_and_scale, _is_matrix)",
        "decay_and_scale",
        ("optim/test_optimizers.py::test_lars_scales_matrices_only",),
    ),
    Fault(
        "LARS has its momentum after the rate",
        "optim/optimizers.py",
        "        optax.masked(decay_and_scale, _is_matrix),\n"
        "        optax.trace(momentum),\n"
        "        optax.scale_by_learning_rate(learning_rate),\n",
        "        optax.masked(decay_and_scale, _is_matrix),\n"
        "        optax.scale_by_learning_rate(learning_rate),\n"
        "        optax.trace(momentum),\n",
        ("optim/test_optimizers.py::test_lars_scales_matrices_only",),
    ),
    Fault(
        "the target moves with 1 - m",
        "optim/optimizers.py",
        "momentum * old + (1 - momentum) * new",
        "(1 - momentum) * old + momentum * new",
        ("optim/test_optimizers.py::test_ema_update",),
    ),
    Fault(
        "an epoch of the schedule begins a step early",
        "optim/schedules.py",
        "jnp.asarray(step) // steps_per_epoch, epochs)",
        "(jnp.asarray(step) + 1) // steps_per_epoch, epochs)",
        ("optim/test_schedules.py::test_warmup_cosine",),
    ),
    Fault(
        "the warm-up begins at a rate of zero",
        "optim/schedules.py",
        "warm_part = peak * (epoch + 1) / max(warmup_epochs, 1)",
        "warm_part = peak * epoch / max(warmup_epochs, 1)",
        ("optim/test_schedules.py::test_warmup_cosine",),
    ),
]

NETS = [
    Fault(
        "the twin of a BatchNorm shares its running statistics",
        "nets/norm.py",
        "return branches[branch]\n",
        "return branches[branch]._replace(\n"
        "            mean=branches[CLEAN].mean, var=branches[CLEAN].var\n"
        "        )\n",
        ("nets/test_norm.py::test_training_matches_oracle_and_moves_only_its_branch",),
    ),
    Fault(
        "BatchNorm keeps the biased variance",
        "nets/norm.py",
        "unbiased = var * (count / (count - 1))",
        "unbiased = var",
        ("nets/test_norm.py::test_training_matches_oracle_and_moves_only_its_branch",),
    ),
    Fault(
        "a projector begins with a ReLU",
        "nets/heads.py",
        "x = nn.relu(x) if i else x",
        "x = nn.relu(x)",
        ("nets/test_heads.py::test_caco_projector_is_its_formula",),
    ),
    Fault(
        "a convolution pads one side only",
        "nets/resnet.py",
        "padding=kernel // 2,",
        'padding="SAME",',
        ("interop/test_forward.py::test_forward_pass_agrees_with_pytorch",),
    ),
]

TRAINING = [
    Fault(
        "the keys are of the target before it moved",
        "training/step.py",
        "target_encode = encode.target\n",
        "def target_encode(network: Network, view: View) -> tuple[Array, Network]:\n"
        "            stale = Network(state.target.params, network.stats)\n"
        "            keys, after = encode.target(stale, view)\n"
        "            return keys, Network(network.params, after.stats)\n\n",
        ("training/test_step.py",),
    ),
    Fault(
        "the target moves after the optimiser's step as well",
        "training/step.py",
        "players, extra = method.advance(players, state.extra, outcome)",
        "players, extra = method.advance(players, state.extra, outcome)\n"
        "        if outcome.target is not None:\n"
        "            params = ema_update(\n"
        "                outcome.target.params,\n"
        '                players["encoder"],\n'
        "                momentum=target_momentum(state.step),\n"
        "            )\n"
        "            outcome = outcome._replace(\n"
        "                target=Network(params, outcome.target.stats)\n"
        "            )",
        ("training/test_step.py",),
    ),
    Fault(
        "every step draws the same views",
        "training/step.py",
        "step_key = jax.random.fold_in(key, state.step)",
        "step_key = jax.random.fold_in(key, 0)",
        ("training/test_step.py::test_views_come_from_the_key_and_the_step",),
    ),
    Fault(
        "shuffled keys are not put back",
        "training/encode.py",
        "return embeddings[jnp.argsort(order)], network",
        "return embeddings, network",
        ("methods/test_encoding.py::test_without_groups_a_shuffle_changes_nothing",),
    ),
    Fault(
        "the parts of a batch come back in another order",
        "training/encode.py",
        "rows = join_groups(embeddings, group_size=group_size or 1)",
        "rows = embeddings.reshape(-1, *embeddings.shape[2:])",
        (
            "training/test_encode.py::"
            "test_parts_of_whole_groups_step_as_the_whole_batch",
        ),
    ),
    Fault(
        "of a batch in parts only the last one's statistics count",
        "training/encode.py",
        "lambda old, new: old + (new - old[None]).mean(axis=0),",
        "lambda old, new: new[-1],",
        (
            "training/test_encode.py::"
            "test_parts_of_whole_groups_step_as_the_whole_batch",
        ),
    ),
    Fault(
        "a step that is not finite stays",
        "training/finite_check.py",
        "kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), moved, state)",
        "kept = moved",
        (
            "training/test_finite_check.py::"
            "test_a_step_that_is_not_finite_is_undone_but_counted",
        ),
    ),
    Fault(
        "every epoch has the same order",
        "training/feeds.py",
        "jax.random.permutation(jax.random.fold_in(key, epoch), count)",
        "jax.random.permutation(key, count)",
        (
            "training/test_feeds.py::"
            "test_an_order_is_a_permutation_from_key_and_epoch_alone",
        ),
    ),
    Fault(
        "the encoder loses its momentum after the start-up",
        "training/loop.py",
        '= restart_schedules(warmed.opt_state.inner_states["encoder"])',
        '= fresh.opt_state.inner_states["encoder"]',
        (
            "training/test_loop.py::"
            "test_start_up_trains_the_encoder_and_hands_its_momentum_over",
        ),
    ),
    Fault(
        "the bank is on every device whole",
        "training/sharding.py",
        "if leaf.ndim > 0 and names & set(row_sharded):",
        "if leaf.ndim > 2 and names & set(row_sharded):",
        (
            "training/test_sharding.py::"
            "test_banks_ages_queues_and_their_momentum_are_spread_and_nothing_else",
        ),
    ),
]

FAULTS = [*LOSSES, *METHODS, *OPTIM, *NETS, *TRAINING]
