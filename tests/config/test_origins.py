"""Every setting of a recipe has one source, and CLAE's strength is in grey levels."""

import re

import pytest

from caco_jax.config.origins import Origin, origins, strength
from caco_jax.schema import ConfigError
from tests.config.test_recipes import FILES, OURS, all_recipes

RECIPE = """
from caco_jax.config.sections import default_config
from caco_jax.config.recipe import with_variant

VARIANTS = {{"longer": {{"training.epochs": 9}}}}
SOURCES = {sources}


def get_config(variant=""):
    config = default_config("simclr")
    config.training.epochs = 7
    return with_variant(config, variant, VARIANTS)
"""
PAPER = "arXiv:2002.05709, section 2"
SOURCE = re.compile(
    r"ours|arXiv:\d{4}\.\d{5}, (section|sections|appendix) .+|"
    r"github\.com/[\w.-]+/[\w.-]+, .+"
)


@pytest.fixture
def recipe(tmp_path):
    def write(**sources):
        path = tmp_path / "mine.py"
        path.write_text(RECIPE.format(sources=sources))
        return str(path)

    return write


@pytest.mark.parametrize("name", all_recipes())
def test_every_setting_has_a_source(name):
    found = origins(name)
    assert found
    for origin in found:
        assert SOURCE.fullmatch(origin.source), origin
        assert origin.value != origin.default


@pytest.mark.parametrize("stem", [stem for stem in FILES if stem not in OURS])
def test_a_published_recipe_is_not_called_ours_as_a_whole(stem):
    assert {origin.source for origin in origins(stem)} != {"ours"}


def test_a_variant_may_have_a_source_of_its_own(recipe):
    path = recipe(**{PAPER: ("training.*",), "ours": ("longer/training.epochs",)})
    epochs = "training.epochs"
    assert origins(path) == [Origin(epochs, 7, 200, PAPER)]
    assert origins(f"{path}:longer") == [Origin(epochs, 9, 200, "ours")]
    assert origins(f"{path}:longer:smoke") == origins(f"{path}:longer")


@pytest.mark.parametrize(
    "sources, reason",
    [
        ({}, "got 0"),
        ({"ours": ("optimizer.*", "longer/*")}, "got 0"),
        ({PAPER: ("training.*",), "ours": ("*",)}, f"got 2 ({PAPER}; ours)"),
    ],
)
def test_a_setting_without_one_source_is_named(recipe, sources, reason):
    path = recipe(**sources)
    with pytest.raises(ConfigError) as caught:
        origins(path)
    assert str(caught.value) == (
        f"{path}: training.epochs: expected one source in SOURCES, {reason}"
    )


def test_a_recipe_without_sources_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from caco_jax.config.sections import default_config\n"
        "get_config = lambda: default_config('simclr')\n"
    )
    with pytest.raises(ConfigError, match=r"expected SOURCES in its file, found none"):
        origins(str(path))


@pytest.mark.parametrize(
    "name, levels",
    [
        # 255 · 0.03 · the deviation that the released code divides by.
        ("clae_simclr_cifar10", (3.825, 3.825, 3.825)),
        ("clae_plain_cifar10", (1.5476, 1.5254, 1.5377)),
        ("clae_uel_cifar10:tiny_imagenet", (1.7519, 1.7136, 1.7213)),
        ("simclr_cifar10", ()),
    ],
)
def test_epsilon_in_grey_levels(name, levels):
    assert strength(name) == pytest.approx(levels, abs=1e-4)
