"""What is public: a change of these lists is a change for people."""

import importlib
import inspect

import pytest

import caco_jax

PUBLIC = [
    "ArrayDataset",
    "ConfigError",
    "EncoderFunctions",
    "Pretraining",
    "UserError",
    "Views",
    "analysis",
    "data",
    "evaluation",
    "load",
    "losses",
    "methods",
    "nets",
    "optim",
    "report",
]


def test_the_front_is_this_and_all_of_it_is_there():
    assert caco_jax.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(caco_jax))
    for name in PUBLIC:
        assert inspect.getdoc(getattr(caco_jax, name)), name
    assert caco_jax.Pretraining.__module__ == "caco_jax.runs.pretraining"


def test_what_the_front_does_not_have_is_said_as_python_says_it():
    with pytest.raises(AttributeError) as found:
        _ = caco_jax.pretrain
    assert str(found.value) == "module 'caco_jax' has no attribute 'pretrain'"


@pytest.mark.parametrize(
    "name", ["data", "evaluation", "losses", "methods", "nets", "optim", "report"]
)
def test_every_public_name_of_a_module_is_there_and_described(name):
    module = importlib.import_module(f"caco_jax.{name}")
    assert getattr(caco_jax, name) is module
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for entry in module.__all__:
        found = getattr(module, entry)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert inspect.getdoc(found), entry
