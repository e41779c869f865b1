"""Faults of what is around: data, runs, recipes, evaluation, weights, commands."""

from tests.faults.fault import Fault

DATA = [
    Fault(
        "a crop's range is of its side, on the device",
        "data/augment.py",
        "area = _between(shares[0, 1:], scale_range) * (height * width)",
        "area = _between(shares[0, 1:], scale_range) ** 2 * (height * width)",
        ("data/test_draws.py::test_crop_area_and_aspect",),
    ),
    Fault(
        "a crop's range is of its side, on the host",
        "data/random_resized_crop.py",
        "area = height * width * rng.uniform(*scale_range)",
        "area = height * width * rng.uniform(*scale_range) ** 2",
        ("data/test_crops.py::test_boxes_are_drawn_as_torchvision_draws_them",),
    ),
    Fault(
        "two views are drawn with one key",
        "data/views.py",
        "row_keys, jnp.array(indices)",
        "row_keys, 0 * jnp.array(indices)",
        ("data/test_views.py::test_rows_views_and_keys_draw_independently",),
    ),
    Fault(
        "an image is mirrored half as often",
        "data/augment.py",
        "return random_apply(key, image, flip, probability=probability)",
        "return random_apply(key, image, flip, probability=probability / 2)",
        ("data/test_draws.py::test_application_rate",),
    ),
    Fault(
        "normalising multiplies by the deviation",
        "data/views.py",
        "return (images - offset) / scale",
        "return (images - offset) * scale",
        ("data/test_view_kinds.py::test_normalisation_is_of_the_last_axis_in_floats",),
    ),
    Fault(
        "bytes are not divided by 255",
        "data/views.py",
        "return batch.astype(dtype) / 255 if",
        "return batch.astype(dtype) if",
        ("data/test_view_kinds.py::test_bytes_of_any_rank_are_handed_on_in_0_to_1",),
    ),
    Fault(
        "what is held out is trained on",
        "data/dataset.py",
        "return np.setdiff1d(np.arange(len(labels)), held), held",
        "return np.arange(len(labels)), held",
        (
            "data/test_dataset.py::"
            "test_labels_of_any_kind_are_numbered_and_a_tenth_of_each_is_held_out",
        ),
    ),
    Fault(
        "a crop's label is that of its place among the chosen rows",
        "data/pipeline.py",
        "random_resized_crops(rng, record, self._specs), record.label",
        "random_resized_crops(rng, record, self._specs), self._records[index].label",
        ("data/test_labelled.py",),
    ),
    Fault(
        "every process reads the first rows of a batch",
        "data/pipeline.py",
        "rows = np.arange(batch_size) if rows is None else rows",
        "rows = np.arange(batch_size if rows is None else len(rows))",
        ("data/test_pipeline.py::test_hosts_read_their_own_rows_of_the_same_batches",),
    ),
]

RUNS = [
    Fault(
        "a run goes on one batch late",
        "runs/fit.py",
        "first_step=int(state.step),",
        "first_step=int(state.step) + min(int(state.step), 1),",
        ("training/test_loop.py::test_going_on_from_an_epoch_gives_the_same_bits",),
    ),
    Fault(
        "a run that goes on keeps the metric lines after its checkpoint",
        "runs/fit.py",
        "self.files.write_metrics(self.progress.rows)",
        "self.files.write_metrics(self.files.read_metrics())",
        ("runs/test_fit.py::test_an_interrupted_run_ends_in_the_same_bits",),
    ),
    Fault(
        "a checkpoint is believed unread",
        "runs/checkpoints.py",
        "damage = find_damage(folder) or find_missing(folder)\n        if",
        "damage = None\n        if",
        ("runs/test_checkpoints.py",),
    ),
    Fault(
        "a checkpoint's files are compared by their sizes alone",
        "runs/manifest.py",
        "if expected is not None and _digest(path) != expected:",
        "if False and _digest(path) != expected:",
        ("runs/test_manifest.py",),
    ),
    Fault(
        "a checkpoint counts that was not finished",
        "runs/manifest.py",
        "if not (folder / buckets.COMMITTED).is_file():",
        "if False and not (folder / buckets.COMMITTED).is_file():",
        ("runs/test_manifest.py",),
    ),
    Fault(
        "an equally good epoch replaces the best",
        "runs/progress.py",
        "last > max(seen, default=-1)",
        "last >= max(seen, default=-1)",
        ("runs/test_progress.py",),
    ),
    Fault(
        "a signal is heard and forgotten",
        "runs/preemption.py",
        "            self._name = name\n            _say",
        "            _say",
        ("runs/test_preemption.py",),
    ),
    Fault(
        "two processes have one directory",
        "runs/workdir.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        ("runs/test_lock.py",),
    ),
    Fault(
        "another configuration goes on with a run",
        "runs/workdir.py",
        "        if differences:\n",
        "        if differences and not self.has_run():\n",
        ("runs/test_checkpoints.py",),
    ),
    Fault(
        "a collapse rings no alarm",
        "runs/alarms.py",
        'if metrics.get("embedding_std", 1.0) < COLLAPSED_STD:',
        'if metrics.get("embedding_std", 1.0) < 0:',
        ("runs/test_alarms.py",),
    ),
]

CONFIG = [
    Fault(
        "an unknown key is passed over",
        "schema.py",
        "for key, value in values.items():\n            with found",
        "for key, value in values.items():\n"
        "            if key not in typing.get_type_hints(cls):\n"
        "                continue\n"
        "            with found",
        ("test_schema.py::test_an_unknown_key_and_a_lost_section_are_named",),
    ),
    Fault(
        "a range is not checked",
        "schema.py",
        "if entry not in allowed:",
        "if False and entry not in allowed:",
        ("test_schema.py::test_a_wrong_value_is_named_with_its_path",),
    ),
    Fault(
        "a number on the command line stays text",
        "config/recipe.py",
        "section[key] = _literal(text)",
        "section[key] = text",
        ("config/test_sections.py::test_an_assignment_replaces_one_value",),
    ),
    Fault(
        "an adversary's encoder has no twins",
        "config/build.py",
        "adversarial_branch=config.adversarial.epsilon > 0",
        "adversarial_branch=False",
        (
            "config/test_build.py::"
            "test_an_adversary_brings_twins_to_every_norm_and_says_grey_levels",
        ),
    ),
]

EVALUATION = [
    Fault(
        "neighbours weigh exp(similarity times temperature)",
        "evaluation/knn.py",
        "weights = jnp.exp(weights / temperature)",
        "weights = jnp.exp(weights * temperature)",
        ("evaluation/test_knn.py::test_votes_against_a_loop",),
    ),
    Fault(
        "neighbours are numbered within their block",
        "evaluation/neighbours.py",
        "[index, piece.firsts[:, None] + place], axis=1",
        "[index, 0 * piece.firsts[:, None] + place], axis=1",
        (
            "evaluation/test_neighbours.py::"
            "test_blocks_and_ties_keep_the_order_of_the_bank",
        ),
    ),
    Fault(
        "a row is its own partner in the uniformity",
        "evaluation/health.py",
        "others = everyone + jnp.log1p(-count * jnp.exp(-everyone))",
        "others = everyone",
        ("evaluation/test_health.py::test_uniformity_against_all_pairs",),
    ),
    Fault(
        "evaluation is of the projector, not of the backbone",
        "evaluation/features.py",
        'functions.embed if kind == "embedding" else functions.features',
        "functions.embed",
        (
            "evaluation/test_features.py::"
            "test_every_row_comes_back_in_order_with_running_statistics",
        ),
    ),
    Fault(
        "the probe is standardised by the test set",
        "evaluation/linear.py",
        "values = standardised(checks.as_floats(features), model.mean, model.scale)",
        "values = checks.as_floats(features)\n"
        "    values = standardised(values, *standardiser(values))",
        ("evaluation/test_linear.py::test_choose_l2_fits_the_rows_that_are_left",),
    ),
    Fault(
        "the probe's penalty is twice as large",
        "evaluation/linear.py",
        "return cost + l2 / 2 * jnp.sum(weights**2)",
        "return cost + l2 * jnp.sum(weights**2)",
        ("evaluation/test_linear.py::test_scikit_learn_finds_the_same_optimum",),
    ),
    Fault(
        "the penalty is chosen on rows that were fitted",
        "evaluation/linear.py",
        "minimise(values[~out], labels[~out], num_classes",
        "minimise(values, labels, num_classes",
        ("evaluation/test_linear.py::test_choose_l2_fits_the_rows_that_are_left",),
    ),
    Fault(
        "the shots of a draw overlap",
        "evaluation/few_shot.py",
        "shots, replace=False)",
        "shots, replace=True)",
        (
            "evaluation/test_few_shot.py::"
            "test_draws_hold_the_shots_of_each_class_and_follow_the_seed",
        ),
    ),
    Fault(
        "a head's weight decay is another head's",
        "evaluation/heads.py",
        "itertools.product(protocol.weight_decays, self._rates)",
        "itertools.product(protocol.weight_decays[::-1], self._rates)",
        ("evaluation/test_heads.py::test_each_head_is_the_one_trained_alone",),
    ),
]

ANALYSIS = [
    Fault(
        "what cooperates is weighed with p",
        "analysis/bank.py",
        "cooperative = jnp.where(own, 1 - probabilities, 0)",
        "cooperative = jnp.where(own, probabilities, 0)",
        ("analysis/test_bank.py::test_cacos_move_is_its_two_parts",),
    ),
    Fault(
        "a density has a kernel on the row itself",
        "analysis/bank.py",
        "    if others:\n        scores",
        "    if False:\n        scores",
        ("analysis/test_bank.py::test_densities_equal_loops",),
    ),
    Fault(
        "the energy of a deep linear network is twice as large",
        "analysis/deep_linear.py",
        "return jnp.sum((whole @ covariance) * whole) / 2",
        "return jnp.sum((whole @ covariance) * whole)",
        ("analysis/test_deep_linear.py::test_every_start_ends_at_the_top_eigenvector",),
    ),
    Fault(
        "weights of pairs are put back beside the diagonal",
        "analysis/importance.py",
        "before = jnp.tri(n, n, k=-1, dtype=bool)",
        "before = jnp.tri(n, n, k=0, dtype=bool).T",
        (
            "analysis/test_importance.py::"
            "test_pair_weights_are_the_importance_of_the_distances",
        ),
    ),
]

REPORT = [
    Fault(
        "where less is better the lights are turned round",
        "report/verdicts.py",
        "sign = 1 if rises else -1",
        "sign = 1",
        ("report/test_texts.py::test_lights_of_the_features",),
    ),
    Fault(
        "JSON may end its script",
        "report/page.py",
        'for character in "<>&',
        'for character in "&',
        ("report/test_page.py::test_embedded_json_opens_no_tag_and_comes_back",),
    ),
    Fault(
        "NaN is written as JSON does not have it",
        "report/collect.py",
        "if isinstance(value, float) and not math.isfinite(value):",
        "if isinstance(value, float) and math.isinf(value):",
        ("report/test_collect.py::test_values_are_json_even_with_nan",),
    ),
]

INTEROP = [
    Fault(
        "a linear layer from PyTorch is not transposed",
        "interop/torch_weights.py",
        "axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim)",
        "axes = {2: (0, 1), 4: (2, 3, 1, 0)}.get(array.ndim)",
        ("interop/test_torch_weights.py::test_round_trip_is_bit_exact",),
    ),
    Fault(
        "height and width of a kernel are exchanged, there and back",
        "interop/torch_weights.py",
        "axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim)",
        "axes = {2: (1, 0), 4: (3, 2, 1, 0)}.get(array.ndim)",
        ("interop/test_torch_weights.py::test_names_and_layouts",),
    ),
    Fault(
        "the target encoder is read as the online one",
        "interop/layouts.py",
        "return not _FOLLOWERS.isdisjoint(",
        "return _FOLLOWERS.isdisjoint(",
        ("interop/test_layouts.py::test_where_the_arrays_lie",),
    ),
]

POD = [
    Fault(
        "a gathered array is sent twice",
        "pod/collectives.py",
        '"all-gather": 1,',
        '"all-gather": 2,',
        ("pod/test_collectives.py::test_collectives_in_loops_count_each_turn",),
    ),
    Fault(
        "a collective in a loop counts once",
        "pod/collectives.py",
        "return Leaf(self.dtype, self.dims).num_bytes * self.times",
        "return Leaf(self.dtype, self.dims).num_bytes",
        ("pod/test_collectives.py::test_collectives_in_loops_count_each_turn",),
    ),
    Fault(
        "memory traffic waits for the arithmetic",
        "pod/roofline.py",
        "return max(self.arithmetic, self.hbm) + self.interconnect + self.latency",
        "return self.arithmetic + self.hbm + self.interconnect + self.latency",
        ("pod/test_roofline.py::test_terms_by_hand",),
    ),
]

PROGRAMS = [
    Fault(
        "a mistake ends with status 0",
        "programs/command.py",
        '_say("error", error)\n        leave(2)',
        '_say("error", error)\n        leave(0)',
        (
            "experiments/test_commands.py::"
            "test_an_impossible_configuration_touches_nothing",
        ),
    ),
    Fault(
        "the values on the command line are not used",
        "programs/command.py",
        "override(load_recipe(recipe), assignments)",
        "override(load_recipe(recipe), assignments[:0])",
        ("test_documentation.py::test_a_wrong_command_is_found",),
    ),
    Fault(
        "TensorBoard keeps what a killed run wrote",
        "programs/reporting.py",
        "EventFile(self._folder, purge_step=epoch)",
        "EventFile(self._folder, purge_step=0)",
        ("experiments/test_reporting.py",),
    ),
]

PACKAGE = [
    Fault(
        "a public name is not listed",
        "__init__.py",
        '    "load",\n',
        "",
        ("test_public_names.py",),
    ),
]

FAULTS = [
    *DATA,
    *RUNS,
    *CONFIG,
    *EVALUATION,
    *ANALYSIS,
    *REPORT,
    *INTEROP,
    *POD,
    *PROGRAMS,
    *PACKAGE,
]
