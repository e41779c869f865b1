"""Recipes: loading them, overriding values, and the shared parts of our recipes."""

import ast
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from caco_jax._paths import local_path
from caco_jax._recipes import recipes
from caco_jax.config.sections import default_config, method_of, optimizer_sections
from caco_jax.data.views import IMAGENET_MEAN, IMAGENET_STD
from caco_jax.nets import VITS
from caco_jax.schema import ConfigError, Conflicts, did_you_mean, flatten

Variants = dict[str, dict[str, Any]]

OURS = (
    "ours"  # in SOURCES of a recipe: settings that no paper and no released code states
)

# CLAE on top of a method that was published without it: our choice, with CLAE's
# strength.
CLAE: Variants = {"clae": {"adversarial.epsilon": 0.03}}

# Other data sets for a CIFAR-10 recipe. Tiny ImageNet is not in TFDS. CLAE's code
# enlarges its images and trains for 100 epochs, whatever it uses for CIFAR.
CIFAR100: Variants = {"cifar100": {"data.source": "tfds:cifar100"}}
TINY_IMAGENET: Variants = {
    "tiny_imagenet": {
        "data.source": "folder:tiny-imagenet-200",
        "data.view_size": 224,
        "data.view.mean": IMAGENET_MEAN,
        "data.view.std": IMAGENET_STD,
        "encoder.stem": "imagenet",
        "training.batch_size": 128,
        "training.epochs": 100,
    }
}
# With these epochs the first milestone, epoch 120, is never reached.
TINY_IMAGENET_CONSTANT: Variants = {
    "tiny_imagenet": {
        **TINY_IMAGENET["tiny_imagenet"],
        "optimizer.schedule": "constant",
        "optimizer.milestones": (),
        "optimizer.milestone_factors": (),
    }
}

# ImageNet needs accelerators, which are twice as fast in bfloat16. The released code of
# MoCo v2, AdCo and CaCo computes in float32, that of MoCo v3 in mixed precision.
FLOAT32: Variants = {"float32": {"encoder.dtype": "float32"}}
FAST = ("encoder.dtype", "encoder.fold_batchnorm", "float32/encoder.dtype")


def imagenet(method: str) -> ConfigDict:
    """The shared settings of the recipes for ImageNet with a ResNet-50."""
    config = default_config(method)
    config.data.source = "tfds:imagenet2012"
    config.encoder.dtype = "bfloat16"
    config.encoder.fold_batchnorm = True
    return config


def moco_imagenet(method: str) -> ConfigDict:
    """ImageNet as in MoCo v2 and AdCo: a batch of 256, BatchNorm over groups of 32."""
    config = imagenet(method)
    config.data.views = "moco_v2"
    config.encoder.projector = "mlp"
    config.encoder.batchnorm_group = 32
    config.target.shuffle_keys = True
    config.target.momentum = 0.999
    config.target.schedule = "constant"
    return config


def vit_imagenet(method: str) -> ConfigDict:
    """The shared settings of the recipes for ImageNet with a ViT-S, as in MoCo v3.

    MoCo v3 itself has no bank, no queue, and a prediction head behind the projector.
    """
    config = imagenet(method)
    config.encoder.fold_batchnorm = False
    config.data.views = "caco"  # as in MoCo v3, except for the crops
    config.data.view.crop_scale = (0.08, 1.0)
    config.encoder.backbone = "vit_small"
    config.encoder.options = {
        "heads": 12,
        "positions": "sincos",
        "fixed_patches": True,
    }
    config.encoder.projector_widths = (4096, 4096, 256)
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-4
    config.optimizer.scale_with_batch = True
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup_epochs = 40
    config.training.batch_size = 1024
    config.training.epochs = 300
    return config


VIT_VARIANTS: Variants = {"base": {"encoder.backbone": "vit_base"}, **FLOAT32}
VIT_SOURCES = {
    "github.com/facebookresearch/moco-v3, its command for ViT-Small": (
        "data.source",
        "data.views",
        "data.view.*",
        "encoder.backbone",
        "encoder.options.*",
        "encoder.projector_widths",
        "optimizer.*",
        "training.epochs",
    ),
    OURS: (
        "method.*",
        "bank_optimizer.*",
        "target.*",
        "training.batch_size",
        *FAST,
    ),
}


def cifar10(method: str) -> ConfigDict:
    """The shared settings for CIFAR-10: a ResNet-18 with a 3x3 stem without pooling."""
    config = default_config(method)
    config.data.source = "tfds:cifar10"
    config.data.views = "cifar"
    config.encoder.backbone = "resnet18"
    config.encoder.stem = "small"
    config.encoder.projector = "mlp"
    config.evaluation.knn_neighbours = 200
    return config


def clae_instance_cifar10(method: str) -> ConfigDict:
    """The shared settings of CLAE with Plain and UEL on CIFAR-10 (arXiv:2010.12050)."""
    config = cifar10(method)
    config.data.view.crop_scale = (0.2, 1.0)
    config.data.view.jitter_probability = 1.0
    config.data.view.hue_turns = 0.4
    config.encoder.projector_widths = (128,)
    config.optimizer.schedule = "steps"
    config.optimizer.milestones = (120, 160, 200)
    config.optimizer.milestone_factors = (0.1, 0.05, 0.01)
    config.optimizer.weight_decay = 5e-4
    config.adversarial.epsilon = 0.03
    config.training.batch_size = 128
    config.training.epochs = 301
    config.evaluation.knn_temperature = 0.1
    config.evaluation.features = "embedding"
    return config


def memory_cifar10(method: str) -> ConfigDict:
    """CIFAR-10 for methods with a target encoder and a bank or queue.

    The papers have no such recipe. The settings are the common ones of MoCo v2 on
    CIFAR-10, the same for all three methods so that they can be compared.
    """
    config = cifar10(method)
    config.encoder.projector_widths = (512, 128)
    config.optimizer.scale_with_batch = True
    config.optimizer.weight_decay = 5e-4
    config.target.schedule = "constant"
    config.training.batch_size = 512
    return config


def digits(method: str) -> ConfigDict:
    """Handwritten digits with a small network: a minute or two on a CPU."""
    config = default_config(method)
    config.encoder.backbone = "resnet8"
    config.encoder.width = 24
    config.encoder.stem = "strided"
    config.encoder.projector_widths = (128, 128, 64)
    config.training.batch_size = 128
    config.optimizer.learning_rate = 0.06
    config.optimizer.weight_decay = 5e-4
    for section in optimizer_sections(config):
        section.warmup_epochs = 5
    for rows in set(method_of(config).row_sharded.values()):
        config.method[rows] = 1024
    config.training.epochs = 80
    config.evaluation.knn_temperature = 0.07  # of arXiv:1805.01978
    return config


def photos(method: str) -> ConfigDict:
    """The shared settings for your own images, see `caco_jax.config.photos`."""
    config = default_config(method)
    config.data.source = "folder:photos"
    config.data.value_range = "auto"
    config.data.views = "moco_v2"
    config.optimizer.scale_with_batch = True
    config.optimizer.weight_decay = 5e-4
    return config


def load_recipe(path: str) -> ConfigDict:
    """Runs a recipe file: ``configs/x.py``, ``configs/x.py:variant`` and so on.

    A name without a path is one of our recipes: ``caco_digits``,
    ``caco_digits:variant``.

    ``:smoke`` at the end shrinks any recipe or variant, see `smoke`.

    Args:
        path: a name, or a Python file with a function ``get_config(variant="")`` that
            returns a ConfigDict; the text after a colon is its argument.

    Raises:
        ConfigError: there is no such file, function or variant.
    """
    name, variant = _name_and_variant(path)
    file = _file_of(name)
    get_config = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise ConfigError(
            f"--config: expected a file that defines get_config(), got {file}"
        )
    first, _, last = variant.rpartition(":")
    if last != "smoke":
        first = variant
    try:
        config = get_config(first) if first else get_config()
    except ConfigError as error:
        raise ConfigError(f"--config: {file}: {error}") from None
    return smoke(config) if last == "smoke" else config


def rules_of(path: str) -> Mapping[str, Any] | None:
    """The rules of a recipe for images and devices, see `caco_jax.config.photos`.

    Args:
        path: see `load_recipe`.

    Returns:
        None if the file has no ``RULES``, or for the variant ``smoke``.
    """
    name, variant = _name_and_variant(path)
    if variant.rpartition(":")[2] == "smoke":
        return None
    return runpy.run_path(_file_of(name)).get("RULES")


def _name_and_variant(path: str) -> tuple[str, str]:
    """Splits off the variant of a recipe's name or file; "" for none."""
    try:  # first, because the colon of file:///... starts no variant
        name, _, variant = str(local_path(path)).partition(":")
    except ValueError as error:
        raise ConfigError(f"--config: {error}") from None
    return name, variant


def _file_of(name: str) -> str:
    """The file of a recipe."""
    ours = recipes()
    file = str(ours.get(name, name))
    if not pathlib.Path(file).is_file():
        raise ConfigError(
            f"--config: expected the path of a recipe, or one of {', '.join(ours)}; "
            f"got {file}: no such file{did_you_mean(pathlib.Path(name).stem, ours)}"
        )
    return file


# Sections with open keys: fields of a view, options of a backbone.
_OPEN_SECTIONS = {"data.view", "encoder.options"}


def override(config: ConfigDict, assignments: Sequence[str]) -> ConfigDict:
    """A recipe with changed values, as by ``--config.a.b=value`` on the command line.

    Args:
        config: the recipe; it is not changed.
        assignments: "a.b=value"; values are Python literals, or else strings.

    Raises:
        ConfigError: no such key, or no "=".
    """
    config = config.copy_and_resolve_references().unlock()
    with Conflicts() as found:
        for assignment in assignments:
            with found.noting():
                _assign(config, assignment)
    return config


def _assign(config: ConfigDict, assignment: str) -> None:
    """Replaces a value in place."""
    path, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--config.{path}: expected --config.{path}=VALUE")
    *sections, key = path.split(".")
    section = config
    for depth, name in enumerate(sections):
        if ".".join(sections[:depth]) in _OPEN_SECTIONS and name not in section:
            section[name] = ConfigDict(type_safe=False)
        above, section = section, section.get(name)
        if not isinstance(section, ConfigDict):
            known = [k for k in above if isinstance(above[k], ConfigDict)]
            raise ConfigError(
                f"--config.{path}: there is no section {name!r}"
                f"{did_you_mean(name, known) or _elsewhere(config, key, text)}"
            )
    meant = "" if sections or key in config else _elsewhere(config, key, text)
    if meant:
        raise ConfigError(f"--config.{path}: no such key{meant}")
    # Not by attribute: ConfigDict would convert a bool to the float of an existing
    # field. The schema checks types and keys later.
    if key in section:
        del section[key]
    section[key] = _literal(text)


def _elsewhere(config: ConfigDict, key: str, text: str) -> str:
    """The place where a recipe has a key of this name, as the end of a message."""
    found = [k for k in flatten(config.to_dict()) if k.endswith(f".{key}")]
    meant = " or ".join(f"--config.{k}={text}" for k in found[:3])
    return f"; did you mean {meant}?" if meant else ""


def _literal(text: str) -> Any:
    """The text as a Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text  # all exceptions that literal_eval documents


def with_variant(
    config: ConfigDict, variant: str, variants: Mapping[str, Mapping[str, Any]]
) -> ConfigDict:
    """Applies variants to a recipe.

    Args:
        config: the recipe; changed in place.
        variant: a name, or several with colons between; "" for the recipe as it is.
        variants: for each name, dotted keys and their values.

    Raises:
        ConfigError: there is no such variant; the message lists those that are.
    """
    for name in variant.split(":") if variant else ():
        if name not in variants:
            known = [*variants, "smoke"]
            raise ConfigError(
                f"expected one of the variants {', '.join(known)}, got {name!r}"
                f"{did_you_mean(name, known)}"
            )
        config.update_from_flattened_dict(variants[name])
    return config


_SMOKE = {
    "encoder.backbone": "resnet_tiny",
    "encoder.width": 4,
    "encoder.stem": "small",
    "training.batch_size": 8,
    "training.epochs": 1,
    "evaluation.knn_neighbours": 3,
    "data.train_split": None,
    "data.test_split": None,
}
_SMOKE_SIZE_PIXELS = 16
_SMOKE_VIT = {"patch_size": 8, "width": 8, "heads": 2, "depth": 1}


def smoke(config: ConfigDict) -> ConfigDict:
    """A recipe shrunk to three steps of eight generated images: seconds on a CPU.

    The method, its settings, the optimisers and the kind of views stay; the network,
    the bank or queue, the images and the schedules become as small as possible.

    Args:
        config: any recipe; it is not changed.
    """
    config = config.copy_and_resolve_references()
    backbone = config.encoder.backbone
    config.update_from_flattened_dict(_SMOKE)
    if backbone in VITS:
        config.encoder.backbone = backbone
        config.encoder.options.update(_SMOKE_VIT)
    widths = [8] * len(config.encoder.projector_widths)
    config.encoder.projector_widths = tuple(widths)
    photos, size = config.data.views != "digits", _SMOKE_SIZE_PIXELS
    config.data.source = f"fake:{size}x{size}x{3 if photos else 1}x24"
    config.data.view_size = size if photos else None
    if config.encoder.batchnorm_group is not None:
        config.encoder.batchnorm_group = 4
    for rows in set(method_of(config).row_sharded.values()):
        config.method[rows] = 32
    if "start_up_epochs" in config.method:
        config.method.start_up_epochs = 0
    for section in optimizer_sections(config):
        section.warmup_epochs = 0
    return config
