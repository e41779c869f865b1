"""The page on adding a method: its very text, registered and trained."""

import pathlib
import re
import types

import jax
import numpy as np
import pytest

from caco_jax.config.recipe import load_recipe
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.methods import registry
from caco_jax.methods.registry import METHODS
from tests.methods import table, test_registry, test_table

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "add-a-method.md"
BLOCK = re.compile(r'^```python title="(.+?)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def blocks():
    """The page's files, by their paths."""
    return dict(BLOCK.findall(PAGE.read_text()))


@pytest.fixture(scope="module")
def dcl(blocks):
    """The page's module, in the registry while the tests of this file last."""
    module = types.ModuleType("dcl")
    exec(blocks["caco_jax/methods/dcl.py"], vars(module))
    text = blocks["caco_jax/methods/registry.py"]
    line = text.replace("from caco_jax.methods import dcl\n", "")
    assert line != text
    exec(line, {"METHODS": METHODS, "dcl": module})
    yield module
    del METHODS["dcl"]


def test_the_page_names_the_files_that_are_needed(blocks):
    assert list(blocks) == [
        "caco_jax/methods/dcl.py",
        "caco_jax/methods/registry.py",
        "configs/dcl_digits.py",
    ]


def test_the_registry_is_as_the_page_says(blocks):
    source = pathlib.Path(registry.__file__).read_text()
    assert re.search(r'^    "\w+": \(\w+\.\w+Config, \w+\.make\w*\),$', source, re.M)
    assert '`"dcl": (dcl.DclConfig, dcl.make),`' in PAGE.read_text()


def test_it_passes_the_checks_of_every_method(dcl):
    test_registry.test_an_entry_makes_the_method_of_its_name("dcl")
    test_registry.test_a_method_brings_its_own_players_and_rows("dcl")
    test_registry.test_every_setting_is_explained("dcl")
    test_registry.test_more_or_less_than_two_views_are_refused_by_name("dcl", 3)


def test_its_loss_is_that_of_a_loop(dcl):
    z = np.random.default_rng(0).normal(size=(6, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(6):
        twin = (i + 3) % 6
        others = [z[i] @ z[j] / 0.3 for j in range(6) if j not in (i, twin)]
        total += np.log(np.sum(np.exp(others))) - z[i] @ z[twin] / 0.3
    with jax.enable_x64(True):
        found = jax.jit(dcl.dcl_loss)(z[:3], z[3:], temperature=0.3)
        np.testing.assert_allclose(found, total / 6, rtol=1e-12)


def test_alike_rows_give_the_logarithm_of_the_negatives(dcl):
    rows = np.ones((5, 1), np.float32)
    loss = jax.jit(dcl.dcl_loss)(rows, rows, temperature=0.7)
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)


@pytest.mark.parametrize(
    "clae", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "clae"]
)
def test_it_passes_the_table_of_every_method(dcl, clae, devices):
    case = test_table.Case("dcl", clae, 2)
    test_table.test_the_second_step_finds_the_first_ones_program_and_state(case)
    test_table.test_players_and_statistics_move(case)
    test_table.test_eight_devices_do_what_one_does(case, devices)
    test_table.test_the_payoff_has_a_gradient_for_players_only(case)
    test_table.test_the_order_of_the_samples_does_not_matter(case)
    test_table.test_a_step_in_bfloat16_keeps_its_dtypes(case)
    test_table.test_a_step_in_bfloat16_is_finite(case)


def test_it_learns(dcl):
    method, encoder = table.small_method("dcl"), table.PixelEncoder()
    step, optimizer = table.make_step(method, encoder, num_views=2)
    state = table.start(method, encoder, optimizer)
    step, losses = jax.jit(step), []
    for _ in range(5):
        state, metrics = step(state, table.draw_images())
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_its_recipe_is_a_configuration(dcl, blocks, tmp_path):
    file = tmp_path / "dcl_digits.py"
    file.write_text(blocks["configs/dcl_digits.py"])
    for variant in ("", ":clae", ":smoke", ":clae:smoke"):
        config = experiment_config(load_recipe(f"{file}{variant}"))
        assert config.method.settings == dcl.DclConfig(temperature=0.2)
        assert (config.adversarial.epsilon > 0) is ("clae" in variant)
    assert default_config("dcl").method.temperature == 0.1
