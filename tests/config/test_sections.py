"""From recipe files and command lines to a validated configuration."""

import ast
import dataclasses
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.config.recipe import load_recipe, override
from caco_jax.config.sections import (
    ExperimentConfig,
    OptimizerConfig,
    default_config,
    experiment_config,
)
from caco_jax.methods import caco
from caco_jax.schema import ConfigError, flatten

DIGITS = "configs/caco_digits.py"


def overridden(*assignments):
    return experiment_config(override(default_config("caco"), assignments))


def test_the_defaults_are_the_schemas():
    bank = OptimizerConfig(learning_rate=3.0, schedule="constant", weight_decay=0.0)
    assert experiment_config(default_config("caco")) == ExperimentConfig(
        method=caco(), method_name="caco", player_optimizers={"bank": bank}
    )


def test_every_value_of_a_recipe_survives():
    recipe = load_recipe(DIGITS)
    config = experiment_config(recipe)
    assert flatten(config.values()) == flatten(recipe.to_dict())
    assert flatten(config.values())["method.name"] == "caco"


def test_a_plain_dictionary_serves_as_well():
    recipe = default_config("caco")
    assert experiment_config(recipe.to_dict()) == experiment_config(recipe)
    partial = {"method": {"name": "caco"}, "seed": 3}
    assert experiment_config(partial) == dataclasses.replace(
        experiment_config(recipe), seed=3
    )


def test_the_recipe_handed_over_is_not_changed():
    recipe = default_config("caco")
    experiment_config(recipe)
    changed = override(recipe, ["seed=7", "training.epochs=3"])
    assert (recipe.seed, changed.seed, changed.training.epochs) == (0, 7, 3)
    assert recipe == default_config("caco")


@pytest.mark.parametrize(
    "assignment, section, key, value",
    [
        ("optimizer.learning_rate=0.2", "optimizer", "learning_rate", 0.2),
        ("optimizer.learning_rate=2", "optimizer", "learning_rate", 2.0),
        ("optimizer.name=lars", "optimizer", "name", "lars"),
        ("optimizer.name='lars'", "optimizer", "name", "lars"),
        (
            "encoder.projector_widths=(8, 8, 4)",
            "encoder",
            "projector_widths",
            (8, 8, 4),
        ),
        ("data.source=fake:8x8x1", "data", "source", "fake:8x8x1"),
        ("data.data_dir=/a=b", "data", "data_dir", "/a=b"),
        ("training.steps_per_dispatch=4", "training", "steps_per_dispatch", 4),
        ("training.steps_per_dispatch=None", "training", "steps_per_dispatch", None),
        ("method.bank_size=2", "method", "bank_size", 2),
    ],
)
def test_an_assignment_replaces_one_value(assignment, section, key, value):
    config = overridden(assignment)
    found = config.values()[section][key]
    assert found == value
    assert type(found) is type(value)
    unchanged = flatten(overridden().values()) | {f"{section}.{key}": value}
    assert flatten(config.values()) == unchanged


def test_the_embedding_is_as_wide_as_the_last_projection():
    assert overridden("encoder.projector_widths=(7, 7, 5)").embedding_dim == 5


@pytest.mark.parametrize(
    "assignment, message",
    [
        (
            "optimizer.learning_rat=1",
            "config.optimizer.learning_rat: no such key; did you mean learning_rate?",
        ),
        (
            "method.temprature=1",
            "config.method.temprature: no such key; did you mean temperature?",
        ),
        ("sead=1", "config.sead: no such key; did you mean seed?"),
        ("seed", "--config.seed: expected --config.seed=VALUE"),
        (
            "optimiser.name=sgd",
            "--config.optimiser.name: there is no section 'optimiser'; did you mean "
            "optimizer?",
        ),
        ("seed.x=1", "--config.seed.x: there is no section 'seed'"),
        (
            "epochs=3",
            "--config.epochs: no such key; did you mean --config.training.epochs=3?",
        ),
        (
            "model.epochs=3",
            "--config.model.epochs: there is no section 'model'; did you mean "
            "--config.training.epochs=3?",
        ),
        (
            "training.epochs=0",
            "config.training.epochs: expected a number in [1, inf), got 0",
        ),
        (
            "training.batch_size=1",
            "config.training.batch_size: expected a number in [2, inf), got 1",
        ),
        (
            "method.temperature=-0.1",
            "config.method.temperature: expected a number in (0, inf), got -0.1",
        ),
        (
            "method.bank_temperature=0",
            "config.method.bank_temperature: expected a number in (0, inf), got 0.0",
        ),
        (
            "method.bank_size=1",
            "config.method.bank_size: expected a number in [2, inf), got 1",
        ),
        (
            "method.name=moco9",
            "config.method.name: expected one of caco, ",
        ),
        (
            "optimizer.momentum=1",
            "config.optimizer.momentum: expected a number in [0, 1), got 1.0",
        ),
        (
            "optimizer.warmup_epochs=201",
            "config.optimizer.warmup_epochs: expected at most training.epochs (200), "
            "got 201",
        ),
        (
            "bank_optimizer.warmup_epochs=201",
            "config.bank_optimizer.warmup_epochs: expected at most training.epochs "
            "(200), got 201",
        ),
        (
            "bank_optimizer.learning_rate=-3",
            "config.bank_optimizer.learning_rate: expected a number in [0, inf), got "
            "-3.0",
        ),
        (
            "optimizer.learning_rate=0",
            "config.optimizer.learning_rate: expected a number in (0, inf), got 0; "
            "only the other players may stay as they are",
        ),
        (
            "encoder.backbone=resnet19",
            "config.encoder.backbone: expected one of resnet18, resnet34, resnet50, "
            "resnet101, resnet152, resnet_tiny, resnet8, vit_tiny, vit_small, "
            "vit_base, or an import path package.module:name, got 'resnet19'",
        ),
        (
            "encoder.options.patch_size=8",
            "config.encoder.options: expected none for resnet50, got {'patch_size': 8}",
        ),
        (
            "encoder.backbone=vit_tiny; encoder.options.patchsize=8",
            "config.encoder.options.patchsize: no such key; did you mean patch_size?",
        ),
        (
            "encoder.backbone=vit_tiny; encoder.options.pooling=max",
            "config.encoder.options.pooling: expected one of token, mean, got 'max'",
        ),
        (
            "encoder.norm=group; encoder.batchnorm_group=8",
            "config.encoder.batchnorm_group: expected None with norm 'group', which "
            "has no statistics, got 8",
        ),
        (
            "encoder.projector_widths=()",
            "config.encoder.projector_widths: expected at least one, got none",
        ),
        (
            "encoder.projector_widths=(8, 0, 4)",
            "config.encoder.projector_widths: expected a number in [1, inf), got (8, "
            "0, 4)",
        ),
    ],
)
def test_each_mistake_is_one_line(assignment, message):
    with pytest.raises(ConfigError) as caught:
        overridden(*assignment.split("; "))
    assert str(caught.value).startswith(message)
    if not message.endswith(" "):
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("training=3", "config.training: expected a section, got 3"),
        ("training.epochs=two", "config.training.epochs: expected int, got 'two'"),
        ("training.epochs=1.5", "config.training.epochs: expected int, got 1.5"),
        (
            "data.bad_image_share=True",
            "config.data.bad_image_share: expected float, got True",
        ),
        ("method.temperature=x", "config.method.temperature: expected float, got 'x'"),
        ("data.source=3", "config.data.source: expected str, got 3"),
    ],
)
def test_a_wrong_type_is_one_line(assignment, message):
    with pytest.raises(ConfigError) as caught:
        overridden(assignment)
    assert str(caught.value) == message


def test_a_warm_up_as_long_as_the_training_is_allowed():
    assert overridden("optimizer.warmup_epochs=200").optimizer.warmup_epochs == 200


@pytest.mark.parametrize("config", [{}, {"method": {}}, {"method": {"name": None}}])
def test_a_configuration_needs_a_method(config):
    with pytest.raises(
        ConfigError, match=r"^config\.method\.name: expected one of caco"
    ):
        experiment_config(config)


def test_there_are_defaults_for_known_methods_only():
    with pytest.raises(
        ConfigError, match=r"^config\.method\.name: expected one of .*'x'$"
    ):
        default_config("x")


KEYS = sorted(flatten(default_config("caco").to_dict()).keys() - {"method.name"})
literals = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text("ab01.,()[]{}=", max_size=4),
    st.lists(st.integers(-2, 300), max_size=3),
    st.just({"a": 1}),
)


def from_command_line(key, value):
    return overridden(f"{key}={value if isinstance(value, str) else repr(value)}")


def from_mapping(key, value):
    sections = default_config("caco").to_dict()
    section, _, name = key.rpartition(".")
    (sections[section] if section else sections)[name] = value
    return experiment_config(sections)


def read_literal(value):
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


@pytest.mark.parametrize(
    "make, meant",
    [
        (from_mapping, lambda value: value),
        (from_command_line, read_literal),
    ],
)
@settings(derandomize=True, deadline=None)
@given(key=st.sampled_from(KEYS), value=literals)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(make, meant, key, value):
    try:
        config = make(key, value)
    except ConfigError as error:
        assert key.rpartition(".")[2] in str(error) or "warmup" in str(error)
        # A line for each of the conflicts that one value makes.
        assert all(line.startswith("config.") for line in str(error).splitlines())
    else:
        value = meant(value)
        kept = config.values()
        for name in key.split("."):
            kept = kept[name]
        assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("section", ["method", "bank_optimizer"])
def test_a_value_in_place_of_a_section_is_refused(section):
    with pytest.raises(
        ConfigError, match=f"config.{section}: expected a section, got 3"
    ):
        overridden(f"{section}=3")


def test_a_list_in_place_of_a_methods_name_is_refused():
    with pytest.raises(
        ConfigError, match=r"^config\.method\.name: expected one of caco"
    ):
        experiment_config({"method": {"name": ["caco"]}})


def test_a_value_that_is_almost_a_literal_is_a_string():
    with pytest.raises(
        ConfigError, match=r"config\.seed: expected int, got '\{\[\]: 1\}'"
    ):
        overridden("seed={[]: 1}")


def test_a_recipe_states_its_differences_from_the_defaults():
    differences = {
        key: value
        for key, value in flatten(load_recipe(DIGITS).to_dict()).items()
        if flatten(default_config("caco").to_dict())[key] != value
    }
    assert differences["method.bank_size"] == 1024
    assert differences["encoder.backbone"] == "resnet8"
    assert differences["training.epochs"] == 80
    assert "data.source" not in differences


def test_a_recipe_gets_the_variant_after_the_colon(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from caco_jax.config.sections import default_config\n"
        "def get_config(variant='plain'):\n"
        "    config = default_config('caco')\n"
        "    config.seed = {'plain': 1, 'other': 2}[variant]\n"
        "    return config\n"
    )
    assert load_recipe(str(recipe)).seed == 1
    assert load_recipe(f"{recipe}:other").seed == 2


def test_a_variant_of_a_recipe_without_variants_is_refused():
    with pytest.raises(ConfigError, match=r"^--config: configs/caco_digits\.py"):
        load_recipe(f"{DIGITS}:nonsense")


def test_a_missing_recipe_says_what_was_wanted(tmp_path):
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ConfigError) as caught:
            load_recipe(str(path))
        message = str(caught.value)
        assert message.startswith("--config: expected the path of a recipe, or one of ")
        assert ", caco_digits, " in message
        assert message.endswith(f"; got {path}: no such file")


def test_a_recipe_of_ours_needs_no_path(monkeypatch, tmp_path):
    by_path = load_recipe("configs/caco_digits.py:clae")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("caco_digits:clae") == by_path


def test_a_recipe_may_be_written_as_file_address(tmp_path):
    recipe = pathlib.Path(DIGITS).resolve()
    assert load_recipe(f"file://{recipe}:clae") == load_recipe(f"{DIGITS}:clae")
    with pytest.raises(
        ConfigError, match=r"^--config: .*gs://b/c\.py: gs:// cannot be"
    ):
        load_recipe("gs://b/c.py")


def test_a_file_that_is_no_recipe_says_so(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"get_config\(\), got .*recipe\.py$"):
        load_recipe(str(recipe))


def test_nested_mappings_flatten_to_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": (2,)}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": (2,),
        "e": None,
    }


@pytest.mark.parametrize(
    "path, meant",
    [("simclr_digit", "simclr_digits"), ("configs/caco-digits.py", "caco_digits")],
)
def test_a_recipe_that_is_nearly_one_is_offered(path, meant):
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    end = f"; got {path}: no such file; did you mean {meant}?"
    assert str(caught.value).endswith(end)


def test_a_variant_that_is_nearly_one_is_offered():
    with pytest.raises(ConfigError, match=r"got 'smok'; did you mean smoke\?$"):
        load_recipe("simclr_digits:smok")
