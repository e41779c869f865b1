"""The drifting encoder and the bank beside it."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caco_jax.schema import UserError
from experiments.benchmarks import drift
from experiments.benchmarks.drift import Setting


def test_views_of_an_image_are_near_and_everything_turns_by_the_angle():
    images = jnp.arange(64)
    first, second = (
        np.asarray(drift.embed(images, jax.random.key(seed), jnp.zeros(())))
        for seed in (5, 6)
    )
    later = np.asarray(drift.embed(images, jax.random.key(5), jnp.radians(30.0)))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((first * later).sum(1), np.cos(np.pi / 6), atol=1e-5)
    # 1 of class and image, 0.4 of the view: 1 / 1.16, but for chance.
    assert abs((first * second).sum(1).mean() - 1 / 1.16) < 0.02
    assert abs(first[:-1] @ first[-1]).mean() < 0.15


def test_decay_shrinks_what_nothing_pulls():
    # At rate 3 and momentum 0.9 decay 1e-4 takes 0.3 % a step in the end.
    still = Setting(temperature=1e-3, degrees=0.0)
    shrunk = drift.drift(still, entries=128, steps=120)
    assert 0.65 < shrunk["bank_row_length"] < 0.85
    kept = drift.drift(still._replace(decay=0.0), entries=128, steps=5)
    assert kept["bank_row_length"] > 0.99


def test_a_bank_follows_a_slow_encoder_better_than_a_fast_one():
    slow, fast = (
        drift.drift(
            Setting("caco", temperature=0.08, decay=0.0, degrees=degrees),
            entries=128,
            steps=40,
        )["bank_cosine"]
        for degrees in (0.05, 5.0)
    )
    assert slow > fast + 0.05


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["drift", *flags])
    drift.main()


def test_a_finished_setting_is_not_played_again(monkeypatch, tmp_path, capsys):
    out = tmp_path / "d.json"
    flags = ["--entries=256", "--steps=2", f"--out={out}"]
    run(monkeypatch, *flags, "--settings", "caco, as published")
    before = json.loads(out.read_text())["rows"]
    run(monkeypatch, *flags, "--settings", "caco, as published", "adco, no decay")
    after = json.loads(out.read_text())["rows"]
    assert after[:1] == before and len(after) == 2
    assert "| adco, no decay |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--settings", "moco"], "--settings: expected some of adco, as published, "),
        (["--steps=0"], "--steps: expected at least 1, got 0"),
    ],
)
def test_wrong_flags_are_one_line(monkeypatch, flags, message):
    with pytest.raises(UserError) as caught:
        run(monkeypatch, *flags)
    assert str(caught.value).startswith(message)
