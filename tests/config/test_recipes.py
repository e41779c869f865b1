"""Every recipe: its published numbers, and three steps of it on made-up images."""

import functools
import importlib
import pathlib
import runpy

import jax
import numpy as np
import pytest

from caco_jax.config.build import build_run, pretrain
from caco_jax.config.parts import build_views
from caco_jax.config.recipe import load_recipe, smoke, with_variant
from caco_jax.config.sections import experiment_config
from caco_jax.methods.registry import METHODS
from caco_jax.runs.fit import start_up, train_epochs
from caco_jax.schema import ConfigError, flatten
from caco_jax.training.feeds import dispatch_shapes, layout_of
from caco_jax.training.loop import Throughput
from caco_jax.training.sharding import make_mesh

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = {
    file.stem: file
    for file in sorted((ROOT / "configs").glob("*.py"))
    if file.stem not in ("__init__", "base")
}
# Of no paper.
OURS = {"photos", *(stem for stem in FILES if stem.endswith("_digits"))}

MOCO_BATCHNORM = {
    "encoder.batchnorm_group": 32,
    "target.shuffle_keys": True,
    "target.momentum": 0.999,
    "target.schedule": "constant",
}
SGD = {
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.warmup_epochs": 0,
}
IMAGENET = {
    "data.source": "tfds:imagenet2012",
    "data.view_size": None,
    "encoder.backbone": "resnet50",
    "encoder.width": 64,
    "encoder.stem": "imagenet",
    "adversarial.epsilon": 0.0,
}
CIFAR = {
    "data.source": "tfds:cifar10",
    "data.views": "cifar",
    "encoder.backbone": "resnet18",
    "encoder.width": 64,
    "encoder.stem": "small",
    "encoder.batchnorm_group": None,
}
ADCO = {
    **IMAGENET,
    **SGD,
    **MOCO_BATCHNORM,
    "method.name": "adco",
    "method.bank_size": 65536,
    "method.temperature": 0.12,
    "method.bank_temperature": 0.02,
    "method.symmetric": False,
    "encoder.projector": "mlp",
    "encoder.projector_widths": (2048, 128),
    "data.views": "moco_v2",
    "optimizer.learning_rate": 0.03,
    "optimizer.final_learning_rate": 0.0006,
    "optimizer.schedule": "cosine",
    "optimizer.scale_with_batch": False,
    "optimizer.weight_decay": 1e-4,
    "bank_optimizer.name": "sgd",
    "bank_optimizer.learning_rate": 3.0,
    "bank_optimizer.schedule": "constant",
    "bank_optimizer.warmup_epochs": 0,
    "bank_optimizer.momentum": 0.9,
    "bank_optimizer.weight_decay": 1e-4,
    "training.batch_size": 256,
    "training.epochs": 200,
}
CACO = {
    **IMAGENET,
    "method.name": "caco",
    "method.bank_size": 65536,
    "method.temperature": 0.08,
    "method.bank_temperature": 0.08,
    "method.start_up_temperature": 0.2,
    "encoder.projector": "caco",
    "encoder.projector_widths": (2048, 2048, 256),
    "encoder.batchnorm_group": None,
    "data.views": "caco",
    "optimizer.name": "lars",
    "optimizer.trust_coefficient": 0.001,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1.5e-6,
    "optimizer.learning_rate": 0.3,
    "optimizer.final_learning_rate": 0.003,
    "optimizer.schedule": "cosine",
    "optimizer.scale_with_batch": True,
    "optimizer.warmup_epochs": 10,
    "bank_optimizer.name": "sgd",
    "bank_optimizer.learning_rate": 3.0,
    "bank_optimizer.schedule": "constant",
    "bank_optimizer.scale_with_batch": False,
    "bank_optimizer.warmup_epochs": 10,
    "bank_optimizer.momentum": 0.9,
    "bank_optimizer.weight_decay": 0.0,
    "target.momentum": 0.99,
    "target.schedule": "cosine",
    "target.shuffle_keys": False,
    "training.batch_size": 1024,
    "training.epochs": 200,
    "evaluation.knn_neighbours": 20,
    "evaluation.knn_temperature": 0.2,
}
CLAE_INSTANCE = {
    **CIFAR,
    **SGD,
    "method.temperature": 0.1,
    "encoder.projector": "mlp",
    "encoder.projector_widths": (128,),
    "optimizer.learning_rate": 0.03,
    "optimizer.scale_with_batch": False,
    "optimizer.schedule": "steps",
    "optimizer.milestones": (120, 160, 200),
    "optimizer.milestone_factors": (0.1, 0.05, 0.01),
    "optimizer.weight_decay": 5e-4,
    "adversarial.epsilon": 0.03,
    "adversarial.weight": 1.0,
    "training.batch_size": 128,
    "training.epochs": 301,
    "evaluation.knn_neighbours": 200,
    "evaluation.knn_temperature": 0.1,
    "evaluation.features": "embedding",
    "data.view.crop_scale": (0.2, 1.0),
    "data.view.jitter_probability": 1.0,
    "data.view.hue_turns": 0.4,
}
# CLAE's released code has sets of its own for Tiny ImageNet.
TINY_IMAGENET = {
    "data.source": "folder:tiny-imagenet-200",
    "data.view_size": 224,
    "data.view.mean": (0.485, 0.456, 0.406),
    "data.view.std": (0.229, 0.224, 0.225),
    "encoder.stem": "imagenet",
    "training.batch_size": 128,
    "training.epochs": 100,
}
TINY_INSTANCE = {
    **CLAE_INSTANCE,
    **TINY_IMAGENET,
    "optimizer.schedule": "constant",
    "optimizer.milestones": (),
    "optimizer.milestone_factors": (),
}
CLAE_SIMCLR = {
    **CIFAR,
    "data.view.brightness": 0.8,
    "data.view.contrast": 0.8,
    "data.view.saturation": 0.8,
    "data.view.hue_turns": 0.2,
    "data.view.mean": (0.5, 0.5, 0.5),
    "data.view.std": (0.5, 0.5, 0.5),
    "evaluation.features": "embedding",
    "evaluation.knn_neighbours": 200,
    "evaluation.knn_temperature": 0.5,
    "method.name": "simclr",
    "method.temperature": 0.5,
    "encoder.projector": "mlp",
    "encoder.projector_widths": (512, 64),
    "optimizer.name": "adam",
    "optimizer.learning_rate": 3e-4,
    "optimizer.schedule": "constant",
    "optimizer.weight_decay": 0.0,
    "adversarial.epsilon": 0.03,
    "adversarial.weight": 1.0,
    "adversarial.reencode_clean": False,
    "training.batch_size": 256,
    "training.epochs": 100,
}
ALPHA = {
    **CIFAR,
    "method.name": "alpha_cl",
    "method.importance": "exponential",
    "method.normalisation": "rows",
    "method.power": 4.0,
    "method.temperature": 0.5,
    "method.intra_weight": 0.0,
    "encoder.projector": "alpha_cl",
    "encoder.projector_widths": (512, 128),
    "optimizer.name": "adam",
    "optimizer.learning_rate": 0.01,
    "optimizer.schedule": "constant",
    "optimizer.weight_decay": 0.0,
    "training.batch_size": 128,
    "training.epochs": 100,
    "adversarial.epsilon": 0.0,
}
# MoCo v3's command, arXiv:2104.02057.
VIT = {
    "data.source": "tfds:imagenet2012",
    "data.view.crop_scale": (0.08, 1.0),
    "encoder.backbone": "vit_small",
    "encoder.options.heads": 12,
    "encoder.options.positions": "sincos",
    "encoder.options.fixed_patches": True,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1.5e-4,
    "optimizer.scale_with_batch": True,
    "optimizer.weight_decay": 0.1,
    "optimizer.warmup_epochs": 40,
    "target.momentum": 0.99,
    "target.schedule": "cosine",
    "training.epochs": 300,
}
# What the papers state, recipe by recipe; an edit that changes one fails here.
PUBLISHED = {
    "caco_imagenet": CACO,
    "caco_imagenet:batch4096": {**CACO, "training.batch_size": 4096},
    "caco_imagenet:epochs800": {**CACO, "training.epochs": 800},
    "caco_imagenet_multicrop": {
        **CACO,
        "data.views": "caco_multicrop",
        "training.batch_size": 2048,
        "training.epochs": 800,
    },
    "adco_imagenet": ADCO,
    "adco_imagenet:symmetric": {**ADCO, "method.symmetric": True},
    "adco_imagenet:multicrop": {**ADCO, "data.views": "adco_multicrop"},
    "adco_imagenet:epochs800": {**ADCO, "training.epochs": 800},
    "adco_imagenet:k8192": {
        **ADCO,
        "method.bank_size": 8192,
        "method.temperature": 0.14,
        "method.bank_temperature": 0.03,
        "optimizer.learning_rate": 0.04,
    },
    "moco_v2_imagenet": {
        **IMAGENET,
        **SGD,
        **MOCO_BATCHNORM,
        "method.name": "moco",
        "method.queue_size": 65536,
        "method.temperature": 0.2,
        "method.symmetric": False,
        "encoder.projector": "mlp",
        "encoder.projector_widths": (2048, 128),
        "data.views": "moco_v2",
        "optimizer.learning_rate": 0.03,
        "optimizer.final_learning_rate": 0.0,
        "optimizer.schedule": "cosine",
        "optimizer.scale_with_batch": True,
        "optimizer.weight_decay": 1e-4,
        "training.batch_size": 256,
        "training.epochs": 200,
    },
    "moco_v2_imagenet:epochs800": {"training.epochs": 800},
    "simclr_imagenet": {
        **IMAGENET,
        "method.name": "simclr",
        "method.temperature": 0.1,
        "encoder.projector": "mlp",
        "encoder.projector_widths": (2048, 128),
        "encoder.batchnorm_group": None,
        "data.views": "simclr",
        "optimizer.name": "lars",
        "optimizer.learning_rate": 0.3,
        "optimizer.scale_with_batch": True,
        "optimizer.warmup_epochs": 10,
        "optimizer.weight_decay": 1e-6,
        "training.batch_size": 4096,
    },
    "moco_vit_imagenet": {
        **VIT,
        "method.name": "moco",
        "method.symmetric": True,
        "method.temperature": 0.2,
    },
    "adco_vit_imagenet": {**VIT, "method.name": "adco", "method.bank_size": 65536},
    "caco_vit_imagenet": {**VIT, "method.name": "caco", "method.bank_size": 65536},
    "caco_vit_imagenet:base": {**VIT, "encoder.backbone": "vit_base"},
    "clae_simclr_cifar10": CLAE_SIMCLR,
    "clae_simclr_cifar10:cifar100": {**CLAE_SIMCLR, "data.source": "tfds:cifar100"},
    "clae_simclr_cifar10:tiny_imagenet": {**CLAE_SIMCLR, **TINY_IMAGENET},
    "clae_plain_cifar10:tiny_imagenet": TINY_INSTANCE,
    "clae_uel_cifar10:tiny_imagenet": TINY_INSTANCE,
    "clae_plain_cifar10": {
        **CLAE_INSTANCE,
        "method.name": "plain",
        "adversarial.reencode_clean": True,
    },
    "clae_uel_cifar10": {
        **CLAE_INSTANCE,
        "method.name": "uel",
        "method.negative_margin": 1.0,
        "adversarial.reencode_clean": False,
    },
    "alpha_cl_cifar10": ALPHA,
    "alpha_cl_cifar10:direct": ALPHA,
    "alpha_cl_cifar10:infonce": {**ALPHA, "method.importance": "infonce"},
    "alpha_cl_cifar10:cifar100:infonce": {
        **ALPHA,
        "data.source": "tfds:cifar100",
        "method.importance": "infonce",
    },
    "alpha_cl_cifar10:stl10": {
        **ALPHA,
        "data.source": "tfds:stl10",
        "data.train_split": "train+unlabelled",
        "data.view_size": 96,
        "data.view.brightness": 0.8,
        "data.view.contrast": 0.8,
        "data.view.saturation": 0.8,
        "data.view.hue_turns": 0.2,
        "data.view.blur_probability": 1.0,
        "data.view.mean": (0.0,),
        "data.view.std": (1.0,),
        "encoder.stem": "imagenet",
    },
    "simclr_cifar10": {**CIFAR, "method.temperature": 0.5},
    "moco_cifar10": {**CIFAR, "method.name": "moco"},
    "adco_cifar10": {**CIFAR, "method.name": "adco"},
    "caco_cifar10": {**CIFAR, "method.name": "caco"},
}


@functools.cache
def read_once(recipe):
    stem, _, variant = recipe.partition(":")
    return load_recipe(f"{FILES[stem]}:{variant}" if variant else str(FILES[stem]))


def read(recipe):
    return read_once(recipe).copy_and_resolve_references()


@functools.cache
def all_recipes():
    """Every recipe and every variant of it, as "stem" or "stem:variant"."""
    recipes = []
    for stem, file in FILES.items():
        variants = runpy.run_path(str(file))["VARIANTS"]
        recipes += [stem, *(f"{stem}:{variant}" for variant in variants)]
    return recipes


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_has_the_published_numbers(recipe):
    found = flatten(read(recipe).to_dict())
    wanted = PUBLISHED[recipe]
    assert {key: found[key] for key in wanted} == wanted


def test_every_published_recipe_is_in_the_table():
    assert FILES.keys() - OURS == {recipe.partition(":")[0] for recipe in PUBLISHED}


@pytest.mark.parametrize("recipe", all_recipes())
def test_a_recipe_is_valid_and_says_where_it_comes_from(recipe):
    config = read(recipe)
    experiment_config(config)
    stem = recipe.partition(":")[0]
    text = importlib.import_module(f"configs.{stem}").__doc__
    for heading in ("Paper:", "Expected:", "Cost:", "Command:"):
        assert f"\n{heading}" in text
    assert f"\nCommand:   caco pretrain --config={stem} " in text
    assert "arXiv:" in text
    for variant in recipe.partition(":")[2:]:
        assert variant in text


def test_every_method_is_on_digits():
    assert {f"{name}_digits" for name in METHODS} <= set(FILES)
    shared = [
        "encoder.backbone",
        "encoder.width",
        "encoder.projector_widths",
        "data.views",
        "training.epochs",
    ]
    rows = {name: flatten(read(f"{name}_digits").to_dict()) for name in METHODS}
    assert len({tuple(row[key] for key in shared) for row in rows.values()}) == 1
    # CaCo's is the demo's, which was tuned for itself.
    batches = {name: row["training.batch_size"] for name, row in rows.items()}
    assert batches == {**dict.fromkeys(METHODS, 128), "caco": 64}


# The views of published recipes: what of a `PhotoView` METHODS states.
ALIKE = {
    "crop_scale": (0.2, 1.0),
    "jitter_probability": 0.8,
    "gray_probability": 0.2,
    "flip_probability": 0.5,
}
JITTER = ("brightness", "contrast", "saturation", "hue_turns")


def photo_views(recipe):
    return build_views(experiment_config(read(recipe)).data).views


def test_cacos_views_are_unlike_each_other():
    views = photo_views("caco_imagenet")
    for view in views:
        assert {name: getattr(view, name) for name in ALIKE} == ALIKE
        assert tuple(getattr(view, name) for name in JITTER) == (0.4, 0.4, 0.2, 0.1)
    assert [view.blur_probability for view in views] == [1.0, 0.1]
    assert [view.solarize_probability for view in views] == [0.0, 0.2]


@pytest.mark.parametrize(
    "recipe, sizes, scales",
    [
        (
            "caco_imagenet_multicrop",
            [224] * 2 + [96] * 6,
            [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6,
        ),
        (
            "adco_imagenet:multicrop",
            [224, 224, 192, 160, 128, 96],
            [
                (0.2, 1.0),
                (0.2, 1.0),
                (0.172, 0.86),
                (0.143, 0.715),
                (0.114, 0.571),
                (0.086, 0.429),
            ],
        ),
    ],
)
def test_multicrop_has_the_papers_sizes_and_scales(recipe, sizes, scales):
    views = photo_views(recipe)
    assert [view.size_pixels for view in views] == sizes
    assert [view.crop_scale for view in views] == scales


def test_a_view_size_shrinks_all_views_alike():
    config = read("caco_imagenet_multicrop")
    config.data.view_size = 112
    views = build_views(experiment_config(config).data).views
    assert [view.size_pixels for view in views] == [112] * 2 + [48] * 6


def smoke_recipes():
    """One recipe for each smoke configuration: some variants come to the same.

    With what its step is made of.
    """
    found = {}
    for recipe in all_recipes():
        values = flatten(read(f"{recipe}:smoke").to_dict())
        parts = {
            ("method", values["method.name"]),
            ("views", values["data.views"]),
            ("optimizer", values["optimizer.name"]),
            ("CLAE", values["adversarial.epsilon"] > 0),
        }
        found.setdefault(tuple(sorted(values.items(), key=str)), (recipe, parts))
    return list(found.values())


def few_of_all(recipes):
    """Recipes that have every method, kind of views and optimiser among them.

    But for multi-crop: many sizes take long to compile.
    """
    recipes = [pair for pair in recipes if "multicrop" not in pair[0]]
    left, few = set().union(*(parts for _, parts in recipes)), []
    while left:
        recipe, parts = max(recipes, key=lambda pair: len(pair[1] & left))
        few.append(recipe)
        left -= parts
    return few


SMOKE = smoke_recipes()
FEW = few_of_all(SMOKE)


def made_up(recipe, devices):
    config = experiment_config(read(f"{recipe}:smoke"))
    return build_run(config, mesh=make_mesh(devices[:1]))


@pytest.mark.parametrize("recipe", [recipe for recipe, _ in SMOKE if recipe not in FEW])
def test_a_step_of_every_recipe_keeps_its_state(recipe, devices):
    run = made_up(recipe, devices)
    state = jax.eval_shape(run.initial_state)
    dispatch = run.dispatch(run.training_step(), state, layout_of(run.data, run.mesh))
    shapes = dispatch_shapes(run.data, run.views, run.training.batch_size)
    with jax.set_mesh(run.mesh):
        after, metrics = jax.eval_shape(dispatch, state, *shapes)
    described = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        for tree in (state, after)
    ]
    assert described[0] == described[1]
    assert metrics["loss"].shape == (1,)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(recipe, marks=[pytest.mark.slow] * (recipe not in FEW))
        for recipe, _ in SMOKE
    ],
)
def test_three_steps_of_every_recipe_run_on_made_up_images(recipe, devices):
    run = made_up(recipe, devices)
    with jax.set_mesh(run.mesh):
        state = start_up(run, run.feeds(), Throughput())
        ((epoch, state, metrics),) = train_epochs(run, state, run.feeds(), Throughput())
    assert (epoch, int(state.step)) == (1, 3)
    for name, values in metrics.items():
        assert values.shape == (3,), name
        assert np.isfinite(values).all(), name


@pytest.mark.slow
def test_a_smoke_run_is_a_whole_run(tmp_path):
    config = experiment_config(read("simclr_digits:clae:smoke"))
    summary = pretrain(config, tmp_path)
    assert (summary["epochs"], summary["steps"]) == (1, 3)


def test_a_smoke_run_keeps_the_kind_and_shrinks_the_size():
    whole, small = read("adco_imagenet:multicrop"), read("adco_imagenet:multicrop")
    shrunk = smoke(whole)
    assert whole == small
    kept = ("method.temperature", "optimizer.name", "data.views", "target.shuffle_keys")
    for key in kept:
        assert flatten(shrunk.to_dict())[key] == flatten(whole.to_dict())[key]
    assert shrunk.training.batch_size == 8
    assert shrunk.data.source == "fake:16x16x3x24"
    assert len(shrunk.encoder.projector_widths) == 2


@pytest.mark.parametrize("stem", FILES)
def test_an_unknown_variant_lists_those_that_are(stem):
    with pytest.raises(ConfigError) as caught:
        read(f"{stem}:nonsense")
    names = [*runpy.run_path(str(FILES[stem]))["VARIANTS"], "smoke"]
    assert str(caught.value) == (
        f"--config: {FILES[stem]}: expected one of the variants {', '.join(names)}, "
        "got 'nonsense'"
    )


def test_variants_replace_values_in_their_order():
    config = read("caco_digits")
    variants = {"a": {"seed": 1, "training.epochs": 2}, "b": {"seed": 3}}
    with_variant(config, "a:b", variants)
    assert (config.seed, config.training.epochs) == (3, 2)
