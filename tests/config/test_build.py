"""From a configuration to the parts of a run, and what is refused on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.config.build import build_run
from caco_jax.config.parts import build_encoder
from caco_jax.config.recipe import smoke
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.data.dataset import ArrayDataset
from caco_jax.data.views import VIEWS
from caco_jax.methods.method import Network, View
from caco_jax.optim import schedules
from caco_jax.runs.checks import check_views
from caco_jax.schema import ConfigError
from caco_jax.training.feeds import dispatch_shapes, layout_of
from caco_jax.training.sharding import make_mesh
from tests.methods.table import small_method


def small(method, **changes):
    """A smoke-sized configuration; a double underscore stands for the dot."""
    config = smoke(default_config(method))
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return experiment_config(config)


def refuse(message, method, **changes):
    with pytest.raises(ConfigError) as caught:
        build_run(small(method, **changes))
    assert str(caught.value) == message


@pytest.mark.parametrize("method", ["simclr", "plain", "uel", "moco", "alpha_cl"])
def test_multicrop_is_for_methods_that_know_it(method):
    refuse(
        f"config.data.views: expected two views for {method}, got 8",
        method,
        data__views="caco_multicrop",
        data__source="fake:16x16x3x24",
    )


def test_one_view_is_no_contrast():
    refuse(
        "config.data.views: expected two views or more for caco, got 1",
        "caco",
        data__views="evaluation",
    )


@pytest.mark.parametrize("method", ["caco", "adco"])
def test_multicrop_is_accepted_where_it_exists(method):
    views = f"{method}_multicrop"
    run = build_run(small(method, data__views=views, data__source="fake:16x16x3x24"))
    assert len(run.view_shapes) == len(VIEWS[views]().views)


def test_small_crops_are_not_larger_than_large_ones():
    shapes = [(96, 96, 3), (96, 96, 3), (224, 224, 3)]
    with pytest.raises(ConfigError) as caught:
        check_views(small_method("caco"), shapes)
    assert str(caught.value) == (
        "views: expected no crop larger than those before it, got heights [96, 96, 224]"
    )


def test_a_group_divides_the_batch():
    with pytest.raises(ConfigError) as caught:
        small("moco", encoder__batchnorm_group=3)
    assert str(caught.value) == (
        "config.encoder.batchnorm_group: expected a divisor of training.batch_size "
        "(8), got 3"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"training__microbatches": 3},
            "config.training.microbatches: expected parts of training.batch_size (8) "
            "that hold whole groups of encoder.batchnorm_group (None), got 3",
        ),
        (
            {"training__microbatches": 4, "encoder__batchnorm_group": 4},
            "config.training.microbatches: expected parts of training.batch_size (8) "
            "that hold whole groups of encoder.batchnorm_group (4), got 4",
        ),
    ],
)
def test_parts_of_the_batch_are_equal_and_hold_whole_groups(changes, message):
    with pytest.raises(ConfigError) as caught:
        small("simclr", **changes)
    assert str(caught.value) == message


def test_groups_are_of_the_batch_that_is_trained_on(devices):
    config = small("moco", encoder__batchnorm_group=4)
    run = build_run(config, mesh=make_mesh(devices[:1]))
    after, _ = jax.eval_shape(
        run.training_step(),
        jax.eval_shape(run.initial_state),
        jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.uint8),
    )
    assert after.step.shape == ()


def test_parts_of_the_batch_are_shared_evenly_by_the_devices():
    refuse(
        "config.training.microbatches: expected parts of the batch that the 8 devices "
        "share evenly, got 2 parts of 4 images",
        "simclr",
        training__microbatches=2,
    )


def test_parts_of_the_batch_reach_both_networks(devices):
    config = small("moco", training__microbatches=2)
    run = build_run(config, mesh=make_mesh(devices[:1]))
    network = jax.eval_shape(run.new_network)
    view = View(jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.float32))
    for one in run.encode():
        jaxpr = str(jax.make_jaxpr(one)(network, view))
        assert jaxpr.count("checkpoint[") + jaxpr.count("remat2[") == 2


def test_stages_are_recomputed_if_asked():
    for remat in (False, True):
        encoder = build_encoder(small("simclr", encoder__remat=remat).encoder)
        assert encoder.module.backbone.remat == remat


def test_batchnorm_is_folded_if_asked():
    for fold in (False, True):
        encoder = build_encoder(small("simclr", encoder__fold_batchnorm=fold).encoder)
        assert encoder.module.backbone.fold_batchnorm == fold


@pytest.mark.parametrize(
    "changes", [{"encoder__norm": "group"}, {"encoder__backbone": "vit_tiny"}]
)
def test_only_batchnorm_of_a_resnet_is_folded(changes):
    with pytest.raises(ConfigError, match=r"fold_batchnorm: expected False without a"):
        small("simclr", encoder__fold_batchnorm=True, **changes)


def test_keys_are_shuffled_for_groups_only():
    with pytest.raises(
        ConfigError, match=r"^config\.target\.shuffle_keys: expected enc"
    ):
        small("moco", target__shuffle_keys=True)


def test_a_queue_is_shared_evenly_by_the_devices():
    refuse(
        "config.method.queue_size: expected a multiple of the 8 devices, got 30",
        "moco",
        method__queue_size=30,
    )


def test_digits_have_their_own_size():
    refuse(
        "config.data.view_size: expected None, these views have the size of the "
        "images; got 8",
        "simclr",
        data__view_size=8,
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"optimizer__schedule": "steps", "optimizer__milestones": (3, 5)},
            "config.optimizer.milestone_factors: expected one for each of milestones "
            "(3, 5), got ()",
        ),
        (
            {
                "optimizer__schedule": "steps",
                "optimizer__milestones": (5, 3),
                "optimizer__milestone_factors": (0.1, 0.2),
            },
            "config.optimizer.milestones: expected rising epochs, got (5, 3)",
        ),
        (
            {
                "optimizer__milestones": (5,),
                "optimizer__milestone_factors": (0.1,),
            },
            "config.optimizer.milestones: expected none with schedule 'cosine', got "
            "(5,)",
        ),
        (
            {"optimizer__schedule": "steps", "optimizer__warmup_epochs": 1},
            "config.optimizer.warmup_epochs: expected 0 with schedule 'steps', got 1",
        ),
        (
            {"encoder__dtype": "float16"},
            "config.encoder.dtype: expected one of float32, bfloat16, got 'float16'",
        ),
        (
            {"adversarial__epsilon": -0.1},
            "config.adversarial.epsilon: expected a number in [0, inf), got -0.1",
        ),
    ],
)
def test_each_mistake_is_one_line(changes, message):
    with pytest.raises(ConfigError) as caught:
        small("simclr", **changes)
    assert str(caught.value) == message


def test_an_adversary_brings_twins_to_every_norm_and_says_grey_levels():
    run = build_run(small("caco", adversarial__epsilon=0.5))
    assert "ε = 0.5 of normalised pixels, 41 of 255 grey" in (run.method.description)
    assert run.method.attack is None
    names = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(
            jax.eval_shape(run.new_network).params
        )
    ]
    norms = [name for name in names if "'scale'" in name]
    twins = [name for name in names if "'adversarial_scale'" in name]
    assert norms
    assert len(twins) == len(norms)
    assert any("projector" in name for name in twins)


@pytest.mark.parametrize(
    "network",
    [
        {"encoder__norm": "group"},
        {
            "encoder__backbone": "vit_tiny",
            "encoder__options": {"patch_size": 8, "width": 8, "heads": 2, "depth": 1},
            "encoder__projector": "mlp",
        },
    ],
    ids=["GroupNorm", "ViT"],
)
def test_an_adversary_needs_no_twin_where_there_is_no_batchnorm(network, devices):
    config = small("simclr", adversarial__epsilon=0.5, **network)
    run = build_run(config, mesh=make_mesh(devices[:1]))
    state = jax.eval_shape(run.initial_state)
    assert jax.tree.leaves(state.stats) == []
    dispatch = run.dispatch(run.training_step(), state, layout_of(run.data, run.mesh))
    shapes = dispatch_shapes(run.data, run.views, run.training.batch_size)
    with jax.set_mesh(run.mesh):
        after, metrics = jax.eval_shape(dispatch, state, *shapes)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert "adversarial_loss" in metrics


def test_without_an_adversary_there_are_no_twins():
    run = build_run(small("caco"))
    network = jax.eval_shape(run.new_network)
    paths = jax.tree_util.tree_leaves_with_path(network)
    assert not any("adversarial" in jax.tree_util.keystr(path) for path, _ in paths)


def test_an_encoder_computes_in_bfloat16_and_keeps_float32_parameters():
    config = small("simclr", encoder__dtype="bfloat16").encoder
    encoder = build_encoder(config)
    images = jax.ShapeDtypeStruct((4, 16, 16, 1), jnp.float32)
    network = jax.eval_shape(encoder.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(network)} == {jnp.dtype("float32")}
    embed = jax.make_jaxpr(lambda *inputs: encoder.embed(*inputs, train=False))
    assert "bf16" in str(embed(network, images))


def test_a_step_in_bfloat16_keeps_its_statistics_and_its_loss_in_float32():
    run = build_run(small("caco", encoder__dtype="bfloat16"))
    state = jax.eval_shape(run.initial_state)
    images = jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.uint8)
    after, metrics = jax.eval_shape(run.training_step(), state, images)
    assert after.stats
    for leaf in jax.tree.leaves((after, metrics)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    assert metrics["loss"].dtype == jnp.float32
    network = Network(state.players["encoder"], state.stats)
    view = View(jax.ShapeDtypeStruct((8, 16, 16, 1), jnp.float32))
    embeddings, _ = jax.eval_shape(run.encode().online, network, view)
    assert embeddings.dtype == jnp.float32  # what the loss sees


def rates(epochs, **changes):
    """The encoder's rate at the first step of each epoch."""
    config = small("simclr", training__epochs=epochs, **changes)
    rate = config.optimizer.schedule_of(
        batch_size=config.training.batch_size, epochs=epochs, steps_per_epoch=3
    )
    return np.asarray(jax.jit(jax.vmap(rate))(3 * np.arange(epochs)))


def test_a_constant_rate_is_constant_after_its_warm_up():
    got = rates(
        5,
        optimizer__schedule="constant",
        optimizer__learning_rate=0.4,
        optimizer__warmup_epochs=2,
    )
    np.testing.assert_allclose(got, [0.2, 0.4, 0.4, 0.4, 0.4], rtol=1e-6)


def test_a_table_of_rates_does_not_multiply_up():
    got = rates(
        5,
        optimizer__schedule="steps",
        optimizer__learning_rate=0.4,
        optimizer__milestones=(2, 4),
        optimizer__milestone_factors=(0.5, 0.1),
    )
    np.testing.assert_allclose(got, [0.4, 0.4, 0.2, 0.2, 0.04], rtol=1e-6)


def test_rates_for_a_batch_of_256_grow_with_the_batch():
    settings = {
        "optimizer__learning_rate": 0.4,
        "optimizer__final_learning_rate": 0.1,
        "optimizer__warmup_epochs": 1,
    }
    plain, scaled = (
        rates(6, optimizer__scale_with_batch=scale, **settings)
        for scale in (False, True)
    )
    np.testing.assert_allclose(scaled, plain * 8 / 256, rtol=1e-6)
    want = schedules.warmup_cosine(0.4, 0.1, warmup_epochs=1, epochs=6)
    want = jax.jit(jax.vmap(want))(np.arange(6))
    np.testing.assert_allclose(plain, want, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "lars", "adam", "adamw"])
def test_every_optimiser_moves_down_a_slope(name):
    config = small("simclr", optimizer__name=name, optimizer__learning_rate=0.1)
    run = build_run(config)
    optimizer = run.training_optimizer()
    players = {"encoder": {"kernel": jnp.full((2, 2), 3.0)}}

    @jax.jit
    def updates(players):
        gradients = jax.tree.map(jnp.ones_like, players)
        return optimizer.update(gradients, optimizer.init(players), players)[0]

    assert (updates(players)["encoder"]["kernel"] < 0).all()


def test_views_are_asked_for_their_shapes_alone(devices):
    config = small(
        "caco",
        data__views="caco_multicrop",
        data__view_size=12,
        data__source="fake:16x16x3x24",
    )
    run = build_run(config, mesh=make_mesh(devices[:1]))
    shapes = [view.shape for view in run.view_shapes]
    assert shapes == [(1, 12, 12, 3)] * 2 + [(1, 5, 5, 3)] * 6


def test_shapes_and_devices_can_be_given(devices):
    def shape(count):
        return jax.ShapeDtypeStruct((count, 16, 16, 3), jnp.uint8)

    images = ArrayDataset("shapes", shape(40), None, shape(8), None)
    mesh = make_mesh(devices[:2])
    config = small("simclr", data__source="nothing", data__views="cifar")
    run = build_run(config, mesh=mesh, data=images)
    assert run.data is images
    assert run.mesh is mesh
    assert run.steps_per_epoch == 40 // config.training.batch_size
    state = jax.eval_shape(run.initial_state)
    assert state.step.shape == ()
