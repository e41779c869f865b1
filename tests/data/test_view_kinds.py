"""Views of examples that are no images, and of which size views are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.data import views
from caco_jax.data.view_kinds import PhotoView, PlainView, Views, as_views
from caco_jax.schema import ConfigError

KEY = jax.random.key(5)
RANDOM = np.random.default_rng(0)
EXAMPLES = {
    "signals": RANDOM.standard_normal((6, 20, 2)).astype(np.float32),
    "tables": RANDOM.standard_normal((6, 5)).astype(np.float32),
    "numbers": RANDOM.standard_normal((6, 3)).astype(np.float16),
    "tokens": RANDOM.integers(-9, 99, (6, 8), np.int32),
    "flags": RANDOM.integers(0, 2, (6, 8)).astype(bool),
}


def plain(key, example):
    return example


def noisy(key, example):
    return example + jax.random.normal(key, example.shape)


def shuffled(key, example):
    return jax.random.permutation(key, example)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_no_bytes_is_handed_on_as_it_is(kind):
    examples = EXAMPLES[kind]
    for made in jax.jit(views.make_views(as_views([plain, PlainView()])))(
        KEY, examples
    ):
        assert made.dtype == examples.dtype
        np.testing.assert_array_equal(made, examples)


@pytest.mark.parametrize("shape", [(6,), (6, 7), (6, 4, 3, 2, 2)])
def test_bytes_of_any_rank_are_handed_on_in_0_to_1(shape):
    examples = RANDOM.integers(0, 256, shape, np.uint8)
    seen = []

    def watch(key, example):
        seen.append((example.shape, example.dtype))
        return example

    (made,) = jax.jit(views.make_views(as_views([watch])))(KEY, examples)
    np.testing.assert_allclose(made, examples / np.float32(255), rtol=1e-6)
    assert seen == [(shape[1:], jnp.float32)]


@pytest.mark.parametrize(("kind", "view"), [("signals", noisy), ("tokens", shuffled)])
def test_a_row_of_ones_own_views_depends_on_its_number_and_its_example(kind, view):
    examples = EXAMPLES[kind]
    make = jax.jit(views.make_views(as_views((view, view))))
    first, second = (np.asarray(made) for made in make(KEY, examples))
    changed = examples.copy()
    changed[2] = 0
    for made, other in zip((first, second), make(KEY, changed), strict=True):
        np.testing.assert_array_equal(np.delete(other, 2, 0), np.delete(made, 2, 0))
    for made, few in zip((first, second), make(KEY, examples[:4]), strict=True):
        np.testing.assert_array_equal(few, made[:4])
    # One example six times: every row, view and key draws its own.
    same = np.repeat(examples[:1], 6, axis=0)
    drawn = np.concatenate([*make(KEY, same), *make(jax.random.key(6), same)])
    assert len({row.tobytes() for row in drawn}) == 24
    assert all(sorted(row.flat) == sorted(same[0].flat) for row in drawn) == (
        view is shuffled
    )


def test_unlike_views_keep_the_methods_order():
    views_of = as_views([plain, noisy, noisy, plain])
    made = jax.jit(views.make_views(views_of))(KEY, EXAMPLES["tables"])
    as_it_is = [bool((view == EXAMPLES["tables"]).all()) for view in made]
    assert as_it_is == [True, False, False, True]
    assert not np.allclose(made[1], made[2])


def test_a_view_may_be_of_another_shape_and_dtype():
    def halves(key, example):
        return example[:10, 0].astype(jnp.bfloat16)

    (made,) = jax.eval_shape(
        views.make_views(as_views([halves])), KEY, np.ones((3, 20, 2))
    )
    assert (made.shape, made.dtype) == ((3, 10), jnp.bfloat16)


def test_normalisation_is_of_the_last_axis_in_floats():
    mean, std = (1.0, -2.0), (2.0, 0.5)
    (made,) = jax.jit(views.make_views(Views((plain,), mean, std)))(
        KEY, EXAMPLES["signals"]
    )
    np.testing.assert_allclose(
        made, (EXAMPLES["signals"] - np.array(mean)) / np.array(std), rtol=1e-5
    )
    one = Views((plain,), (3.0,), (2.0,))
    for kind, dtype in {"tokens": np.float32, "numbers": np.float16}.items():
        (made,) = jax.jit(views.make_views(one))(KEY, EXAMPLES[kind])
        assert made.dtype == dtype
        expected = (EXAMPLES[kind].astype(np.float32) - 3) / 2
        np.testing.assert_allclose(made, expected, atol=2e-3)
    with pytest.raises(
        ValueError, match="expected 3 channels, as in the views' mean, got 2"
    ):
        views.make_views(Views((plain,), (0.5,) * 3, (0.5,) * 3))(
            KEY, jnp.ones((2, 9, 2))
        )


def test_evaluation_draws_nothing():
    def middle(key, example):
        return example[5:15]

    recipe = Views((noisy, noisy), (1.0,), (2.0,), evaluation=middle)
    made = views.make_evaluation_view(recipe)(jnp.asarray(EXAMPLES["signals"]))
    np.testing.assert_allclose(made, (EXAMPLES["signals"][:, 5:15] - 1) / 2, rtol=1e-6)
    as_it_is = views.make_evaluation_view(as_views([noisy]))
    tokens = jnp.asarray(EXAMPLES["tokens"])
    np.testing.assert_array_equal(as_it_is(tokens), tokens)


def test_functions_are_views_whose_values_are_used_as_they_come():
    found = as_views([noisy, plain])
    assert (found.views, found.mean, found.std) == ((noisy, plain), (0.0,), (1.0,))
    assert found.is_identity
    assert not found.are_photos
    assert as_views(found) is found


@pytest.mark.parametrize("wrong", [noisy, [], "digits", [noisy, 3], None])
def test_what_is_no_views_is_refused(wrong):
    with pytest.raises(ConfigError, match=r"^views: expected a sequence of functions"):
        as_views(wrong)


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("moco_v2", 56, [56, 56]),
        ("cifar", 64, [64, 64]),
        ("caco_multicrop", 112, [112, 112] + [48] * 6),
        ("adco_multicrop", 7, [7, 7, 6, 5, 4, 3]),
        ("caco_multicrop", 1, [1] * 8),
    ],
)
def test_smaller_views_shrink_along(name, size, sizes):
    before = views.VIEWS[name]()
    after = before.resized(size)
    assert after.photo_sizes == sizes
    assert (after.mean, after.std) == (before.mean, before.std)
    again = after.resized(before.photo_sizes[0])
    assert [view.crop_scale for view in again.views] == [
        view.crop_scale for view in before.views
    ]


@pytest.mark.parametrize("kinds", [(noisy, noisy), (PhotoView(), PlainView())])
def test_views_of_the_examples_size_have_no_other(kinds):
    with pytest.raises(ConfigError, match="these views have the size of the images; g"):
        Views(kinds).resized(32)
