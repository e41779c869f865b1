"""Types, ranges and messages of the configuration's schema."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_jax.schema import (
    BELOW_ONE,
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    ConfigError,
    Range,
    UserError,
    build,
    require,
    setting,
    validate,
)


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = setting(0.1, allowed=POSITIVE, doc="a rate")
    momentum: float | None = setting(None, allowed=BELOW_ONE, doc="optional")
    name: str = setting("sgd", allowed=("sgd", "lars"), doc="a choice")
    sizes: tuple[int, ...] = setting((1, 2), allowed=COUNT, doc="any number of them")
    pair: tuple[int, float] = setting((1, 0.5), doc="exactly two")
    flag: bool = setting(False, doc="on or off")

    def __post_init__(self):
        validate(self)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    seed: int = setting(0, allowed=NON_NEGATIVE, doc="a count from 0")

    def __post_init__(self):
        validate(self)


def test_absent_keys_keep_their_defaults():
    assert build(Outer, {}) == Outer()
    assert build(Outer, {"inner": {"name": "lars"}}) == Outer(Inner(name="lars"))


@pytest.mark.parametrize(
    "key, given_value, kept",
    [
        ("rate", 2, 2.0),
        ("momentum", 0, 0.0),
        ("momentum", None, None),
        ("sizes", [3, 4, 5], (3, 4, 5)),
        ("sizes", (), ()),
        ("pair", [2, 1], (2, 1.0)),
        ("flag", True, True),
    ],
)
def test_values_that_lose_nothing_take_the_fields_type(key, given_value, kept):
    value = getattr(build(Outer, {"inner": {key: given_value}}).inner, key)
    assert value == kept
    assert type(value) is type(kept)
    if isinstance(kept, tuple):
        assert [type(entry) for entry in value] == [type(entry) for entry in kept]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("rate", "0.1", "expected float, got '0.1'"),
        ("rate", True, "expected float, got True"),
        ("rate", None, "expected float, got None"),
        ("rate", 0.0, "expected a number in (0, inf), got 0.0"),
        ("rate", -1, "expected a number in (0, inf), got -1.0"),
        ("rate", math.inf, "expected a number in (0, inf), got inf"),
        ("rate", math.nan, "expected a number in (0, inf), got nan"),
        ("momentum", "a", "expected float or None, got 'a'"),
        ("momentum", 1.0, "expected a number in [0, 1), got 1.0"),
        ("name", "adam", "expected one of sgd, lars, got 'adam'"),
        ("name", 3, "expected str, got 3"),
        ("sizes", 3, "expected tuple[int, ...], got 3"),
        ("sizes", (1, 2.0), "expected tuple[int, ...], got (1, 2.0)"),
        ("sizes", (1, True), "expected tuple[int, ...], got (1, True)"),
        ("sizes", (1, 0), "expected a number in [1, inf), got (1, 0)"),
        ("pair", (1,), "expected tuple[int, float], got (1,)"),
        ("pair", (0.5, 1), "expected tuple[int, float], got (0.5, 1)"),
        ("flag", 1, "expected bool, got 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(key, value, message):
    with pytest.raises(ConfigError) as caught:
        build(Outer, {"inner": {key: value}})
    assert str(caught.value) == f"config.inner.{key}: {message}"


def test_a_dataclass_of_ones_own_making_is_checked_too():
    with pytest.raises(ConfigError, match=r"^rate: expected float, got 'x'$"):
        Inner(rate="x")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sed": 1}, "config.sed: no such key; did you mean seed?"),
        ({"inner": {"rat": 1}}, "config.inner.rat: no such key; did you mean rate?"),
        ({"zzz": 1}, "config.zzz: no such key; known: inner, seed"),
        ({7: 1}, "config.7: no such key; known: inner, seed"),
        ({"inner": 3}, "config.inner: expected a section, got 3"),
        ({"seed": {"a": 1}}, "config.seed: expected int, got {'a': 1}"),
    ],
)
def test_an_unknown_key_and_a_lost_section_are_named(values, message):
    with pytest.raises(ConfigError) as caught:
        build(Outer, values)
    assert str(caught.value) == message


def test_the_path_is_the_callers():
    with pytest.raises(ConfigError, match=r"^recipe\.seed: expected int"):
        build(Outer, {"seed": 0.5}, "recipe")


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=3),
)
anything = st.one_of(scalars, st.lists(scalars, max_size=3), st.just({"a": 1}))


@settings(derandomize=True)
@given(
    key=st.sampled_from([field.name for field in dataclasses.fields(Inner)]),
    value=anything,
)
def test_any_value_is_kept_whole_or_refused_in_one_line(key, value):
    try:
        kept = getattr(build(Outer, {"inner": {key: value}}).inner, key)
    except ConfigError as error:
        assert str(error).startswith(f"config.inner.{key}: expected ")
        assert str(error).endswith(f"got {value!r}") or isinstance(value, int | list)
        assert "\n" not in str(error)
    else:
        assert kept == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("values", [{"inner": {"rate": 10**400}}, {"seed": 10**400}])
def test_a_huge_integer_is_judged_like_any_other(values):
    with pytest.raises(ConfigError, match="expected"):
        build(Outer, values)


@settings(derandomize=True)
@given(
    low=st.floats(-10, 10),
    high=st.floats(-10, 10),
    low_open=st.booleans(),
    high_open=st.booleans(),
    value=st.one_of(st.floats(-10, 10), st.integers(-10, 10)),
)
def test_a_range_holds_what_lies_between_its_ends(
    low, high, low_open, high_open, value
):
    held = value in Range(low, high, low_open, high_open)
    inside = low < value < high
    at_low, at_high = value == low, value == high
    fits = (at_low and not low_open and value <= high) or (
        at_high and not high_open and value >= low
    )
    if at_low and at_high:
        fits = not low_open and not high_open
    assert held == (inside or fits)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, (1,)])
def test_no_range_holds_what_is_not_a_finite_number(value):
    assert value not in Range()


@pytest.mark.parametrize(
    "interval, text",
    [
        (POSITIVE, "a number in (0, inf)"),
        (NON_NEGATIVE, "a number in [0, inf)"),
        (FRACTION, "a number in [0, 1]"),
        (BELOW_ONE, "a number in [0, 1)"),
        (COUNT, "a number in [1, inf)"),
        (Range(high=2.5, high_open=True), "a number in (-inf, 2.5)"),
    ],
)
def test_a_range_prints_as_an_interval(interval, text):
    assert str(interval) == text


def test_require_makes_a_message_only_when_it_is_needed():
    require(True, lambda: pytest.fail("the message was made"))
    with pytest.raises(ConfigError, match=r"^a line$"):
        require(False, lambda: "a line")
    with pytest.raises(UserError, match=r"^plain$"):
        require(False, "plain")
