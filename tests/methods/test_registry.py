"""The list of methods, and what every entry promises."""

import dataclasses

import jax
import numpy as np
import pytest

from caco_jax.methods.registry import METHODS, make_method
from tests.methods.table import DIM, ENTRIES, small_config, small_method


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_makes_the_method_of_its_name(name):
    config_class, make = METHODS[name]
    assert config_class().__class__ is config_class
    method = make(small_config(name), embedding_dim=DIM)
    assert method.name == name
    assert method.moves["encoder"] == "descend"
    assert set(method.moves.values()) <= {"descend", "ascend", "hold"}
    assert method.description
    assert "\n" not in method.description


@pytest.mark.parametrize("name", METHODS)
def test_a_method_brings_its_own_players_and_rows(name):
    method = small_method(name)
    players, extra = method.init(jax.random.key(0))
    assert {"encoder", *players} == set(method.moves)
    for leaf in jax.tree.leaves((players, extra)):
        assert leaf.shape in {(), (ENTRIES,), (ENTRIES, DIM)}
    again, _ = method.init(jax.random.key(0))
    other, _ = method.init(jax.random.key(1))
    for player, bank in players.items():
        np.testing.assert_array_equal(bank, again[player])
        assert not np.array_equal(bank, other[player])


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_explained(name):
    config_class, _ = METHODS[name]
    for field in dataclasses.fields(config_class):
        assert field.metadata["doc"], field.name


def test_the_target_encoder_is_where_keys_are_needed():
    with_target = {name for name in METHODS if small_method(name).uses_target}
    assert with_target >= {"caco", "adco", "moco"}
    assert not with_target & {"simclr", "plain", "uel", "alpha_cl"}


def test_a_config_of_no_method_is_refused():
    with pytest.raises(KeyError, match="no method is configured by int"):
        make_method(3, embedding_dim=4)


@pytest.mark.parametrize("name", ["moco", "simclr", "plain", "uel", "alpha_cl"])
@pytest.mark.parametrize("num_views", [1, 3])
def test_more_or_less_than_two_views_are_refused_by_name(name, num_views):
    method = small_method(name)
    assert not method.multicrop
    with pytest.raises(
        ValueError, match=f"{name}: expected two views, got {num_views}"
    ):
        method.payoff({"encoder": {}}, None, [None] * num_views)
