"""Settings that others have left behind: what is said of each, and of no recipe."""

import functools
import logging

import jax
import numpy as np
import optax
import pytest

from caco_jax.config.build import build_run
from caco_jax.config.recipe import load_recipe, recipes
from caco_jax.config.sections import experiment_config
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.optim.settings import OptimizerConfig, TargetConfig
from caco_jax.runs.cautions import cautions, own_key_share
from caco_jax.training.sharding import make_mesh
from tests.runs import tiny

# The default momentum looks back 100 steps; the tiny run has 12.
SHORT = TargetConfig(momentum=0.9)


def said(method="caco", **changes):
    optimizers = changes.pop("optimizers", None)
    run = tiny.run(method, **changes).replace(target=SHORT, optimizers=optimizers)
    return cautions(run)


@pytest.mark.parametrize("method", ["caco", "adco", "moco", "simclr"])
def test_a_run_whose_parts_fit_is_begun_without_a_word(method):
    assert (
        said(method, **({"method__queue_size": 16} if method == "moco" else {})) == []
    )


@pytest.mark.parametrize("method", ["caco", "adco"])
def test_a_bank_larger_than_the_set(method):
    assert said(method, method__bank_size=48) == []
    assert said(method, method__bank_size=65_536) == [
        "method.bank_size: expected at most 48, the training examples of "
        "fake:8x8x1x48, got 65,536; most entries will have nobody to follow: take a "
        "twentieth of the examples or so"
    ]


def test_a_queue_in_which_images_meet_themselves():
    assert said("moco", method__queue_size=32) == []
    assert said("moco", method__queue_size=48, method__symmetric=True) == []
    for size, symmetric, share in [(48, False, 67), (64, False, 89), (160, True, 100)]:
        changes = {"method__queue_size": size, "method__symmetric": symmetric}
        assert said("moco", **changes) == [
            "method.queue_size: expected a queue shorter than the 48 training "
            f"examples of fake:8x8x1x48, got {size:,}; about {share}% of the queries "
            "will meet an older key of their own image as a negative: take a twentieth "
            "of the examples or so"
        ]


@pytest.mark.parametrize("queue_steps", [0, 1, 4, 8, 10, 13, 18, 19, 40])
def test_the_share_is_that_of_queues_that_are_played(queue_steps):
    steps, rng = 10, np.random.default_rng(0)
    met = []
    for _ in range(400):  # pairs of epochs, an example a step
        last, now = rng.permutation(steps), rng.permutation(steps)
        queue = [*last]  # what was written at each step, oldest first
        for image in now:
            met.append(image in queue[max(len(queue) - queue_steps, 0) :])
            # A key of this epoch is another one: it must not count.
            queue.append(-1)
    expected = own_key_share(queue_steps=queue_steps, epoch_steps=steps)
    assert np.mean(met) == pytest.approx(expected, abs=0.02)


def test_groups_that_the_devices_cannot_share(devices):
    run = tiny.run("simclr").replace(target=SHORT, optimizers=None)
    for count, told in [(1, 0), (4, 0), (8, 1)]:
        grouped = run.replace(mesh=make_mesh(devices[:count]), batchnorm_group=4)
        assert len(cautions(grouped)) == told
    assert cautions(grouped) == [
        "encoder.batchnorm_group: expected a multiple of the 8 devices as the number "
        "of groups, got 4 of 4 rows; every device will encode the whole batch: change "
        "training.batch_size or the group"
    ]


def test_a_warm_up_that_is_much_of_the_run():
    def warmed(epochs):
        return {"encoder": OptimizerConfig(warmup_epochs=epochs)}

    assert said(optimizers=warmed(1)) == []  # of four
    assert said(optimizers=warmed(2)) == [
        "optimizer.warmup_epochs: expected at most a quarter of the run's 4 epochs, "
        "got 2; shorten it along with training.epochs"
    ]
    bank = {"bank": OptimizerConfig(schedule="constant", warmup_epochs=3)}
    (line,) = said(optimizers=bank)
    assert line.startswith("bank_optimizer.warmup_epochs: expected at most a quarter")
    assert said(optimizers={"encoder": optax.sgd(0.1)}) == []


def test_milestones_that_are_never_reached():
    late = OptimizerConfig(
        schedule="steps", milestones=(2, 4, 160), milestone_factors=(0.1, 0.05, 0.01)
    )
    assert said(optimizers={"encoder": late}) == [
        "optimizer.milestones: expected epochs below the run's 4, got 4, 160, which it "
        "never reaches; move them along with training.epochs"
    ]


@pytest.mark.parametrize(
    ("momentum", "memory"), [(0.99, "100 steps"), (1.0, "which never forgets")]
)
def test_a_target_that_remembers_longer_than_the_run(momentum, memory):
    run = tiny.run("caco").replace(target=TargetConfig(momentum=momentum))
    assert cautions(run) == [
        "target.momentum: expected a memory 1/(1 - m) of at most the run's 12 steps, "
        f"got m = {momentum:g}, {memory}; the target encoder will stay near where it "
        "begins: lower it, or train for longer"
    ]
    assert cautions(tiny.run("simclr")) == []  # the default is 0.99; it has no target


def test_a_start_up_that_is_longer_than_the_run():
    assert said(method__start_up_epochs=4) == []
    assert said(method__start_up_epochs=25) == [
        "method.start_up_epochs: expected at most the run's 4 epochs, got 25; shorten "
        "it along with training.epochs"
    ]


def test_a_dry_run_tells_and_a_run_warns_and_goes_on(tmp_path, caplog):
    run = tiny.run("caco", training__epochs=1)
    expected = cautions(run)
    assert len(expected) == 1
    assert run.dry_run(tmp_path / "run")["cautions"] == expected
    with caplog.at_level(logging.WARNING, "caco_jax"):
        assert run.fit(tmp_path / "run")["epochs"] == 1
    assert caplog.messages.count(expected[0]) == 1


COUNTS = {
    **{"tfds:cifar10": 50_000, "tfds:cifar100": 50_000, "tfds:imagenet2012": 1_281_167},
    **{"tfds:stl10": 100_000, "folder:tiny-imagenet-200": 100_000},
    "folder:photos": 1_000_000,
}


@functools.cache
def stand_in(source):
    if source == "digits":
        pixels = np.broadcast_to(np.uint8(0), (1347, 16, 16, 1))
        return ArrayDataset(source, pixels, None, pixels[:0], None)
    return RecordDataset(source, range(COUNTS[source]))


@pytest.mark.parametrize("name", recipes())
def test_no_shipped_recipe_is_warned_of(name):
    path = recipes()[name]
    scope = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    for variant in ["", *scope.get("VARIANTS", {})]:
        recipe = load_recipe(f"{path}:{variant}" if variant else str(path))
        # A small one that takes views of any size: no rule looks at it.
        recipe.encoder.backbone, recipe.encoder.width = "resnet_tiny", 4
        recipe.encoder.stem, recipe.encoder.options = "small", {}
        recipe.encoder.batchnorm_group = None
        recipe.target.shuffle_keys = False
        recipe.adversarial.epsilon = 0.0
        if recipe.data.views != "digits":
            recipe.data.view_size = 16
        frozen = experiment_config(recipe)
        data = stand_in(frozen.data.source)
        mesh = make_mesh(jax.devices()[:1])
        assert cautions(build_run(frozen, mesh=mesh, data=data)) == [], variant
