"""The augmentation benchmark runs, and both of its sides make the same kind of view."""

import numpy as np
import pytest

from caco_jax.data import views
from experiments.benchmarks import data
from tests.data.photos import photos
from tests.experiments.smoke import smoke


@pytest.mark.slow
def test_smoke_run_writes_its_figures(tmp_path):
    figures, printed = smoke("data", tmp_path / "figures.json")
    assert "times one core of Pillow" in printed
    assert set(figures["augmentation"]) == set(data.RECIPES)
    for compared in figures["augmentation"].values():
        seconds = {name: one["median"] for name, one in compared["seconds"].items()}
        ratio = seconds["pillow"] / seconds["ours"]
        np.testing.assert_allclose(compared["times_pillow"], ratio)
        rate = data.BATCHES * 2 * 16 / seconds["ours"]
        np.testing.assert_allclose(compared["views_per_second"]["ours"], rate)
    decoding = figures["decoding"]
    for name in data.CROPS:
        compared = decoding[name]
        ours, pillow = (
            decoding["seconds"][f"{name}: {side}"]["median"]
            for side in ("ours", "Pillow")
        )
        np.testing.assert_allclose(compared["times_pillow"], pillow / ours)
        np.testing.assert_allclose(compared["images_per_second"], 2 / ours)


@pytest.mark.slow
def test_both_sides_make_views_of_one_distribution():
    photo = photos()[1]
    recipe = views.simclr(size_pixels=16)
    batch = np.repeat(np.asarray(photo)[None], 512, axis=0)
    ours = np.stack(data.device_views(recipe, batch)()).reshape(-1, 16 * 16, 3)
    pillow = np.stack(data.pillow_loop(recipe, batch)()).reshape(-1, 16 * 16, 3)
    assert ours.shape == pillow.shape == (1024, 256, 3)
    # Moments of 1,024 views each: a mean's standard error is a thirtieth of the spread.
    for moment in (np.mean, np.std):
        a, b = moment(ours, axis=1), moment(pillow, axis=1)  # [1024, 3]
        error = np.hypot(a.std(axis=0), b.std(axis=0)) / np.sqrt(1024)
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error)


def test_both_sides_cut_the_same_pieces():
    """From the same generator, box for box."""
    records = data.photographs(4)
    ours, pillow = data.our_crops(records, 2), data.pillow_crops(records, 2)
    assert len(ours) == len(pillow) == 8
    for crop, expected in zip(ours, pillow, strict=True):
        assert crop.shape == expected.shape == (224, 224, 3)
        # The second crop's box too: both generators are drawn from alike.
        assert np.abs(crop.astype(int) - expected).mean() <= 1
