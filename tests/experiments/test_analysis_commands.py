"""The analysis commands: their files, their claims as printed, and each mistake."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from caco_jax.programs import (
    alpha_gradients,
    bank_dynamics,
    deep_linear_pca,
    relu_fixed_points,
)
from tests.experiments.commands import call as call_main
from tests.experiments.commands import one_line, save_run

pytestmark = pytest.mark.xdist_group("commands")

MAINS = {
    module.__name__.rpartition(".")[2]: module.main
    for module in (alpha_gradients, bank_dynamics, deep_linear_pca, relu_fixed_points)
}
SIZES = {  # of each method's own
    "caco": ["method.bank_size=40"],
    "adco": ["method.bank_size=40"],
    "moco": ["method.queue_size=40"],
    "simclr": [],
}


def call(name, *flags):
    return call_main(MAINS[name], *flags)


@pytest.fixture(scope="module")
def workdir_of(tmp_path_factory):
    """The directory of a method's run, with two checkpoints of a new network."""
    folder = tmp_path_factory.mktemp("runs")

    @functools.cache
    def make(name):
        return save_run(folder / name, *SIZES[name], method=name, steps=(3, 6))

    return make


def read(path):
    """A JSON file that has no NaN."""

    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def check_figures(folder, *names):
    assert {path.stem for path in folder.glob("*.png")} == set(names)
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("RGB").getcolors(10**6)) > 8


@pytest.mark.slow
def test_alpha_gradients_of_a_run(tmp_path):
    network = ["encoder.backbone=resnet_tiny", "encoder.width=4", "encoder.stem=small"]
    workdir = save_run(tmp_path, *SIZES["caco"], *network, steps=(3, 6))
    flags = ["--batch_size=12", "--steps=2", "--turns", 1]
    status, out, err = call(
        "alpha_gradients",
        f"--workdir={workdir}",
        "--temperatures",
        *(0.1, 0.5),
        *flags,
    )
    assert (status, err) == (0, "")
    folder = workdir / "analysis"
    found = read(folder / "alpha_gradients.json")
    assert (found["step"], found["batch_size"], found["x64"]) == (6, 12, False)
    identity = found["identity"]
    errors = [e for layers in identity["errors"].values() for e in layers.values()]
    assert len(identity["errors"]) == 8
    assert identity["largest"] == max(errors) <= identity["tolerance"] == 1e-4
    assert re.search(r"identity: 8 members, \d+ layers, largest relative error", out)
    rows = found["importance"]["rows"]
    assert {row["temperature"] for row in rows} == {0.1, 0.5, None}
    for row in rows:
        assert 0 <= row["same_class_share"] <= 1
        assert 0 <= row["effective_negatives"] <= 11 + 1e-6
    turns = found["turns"]
    np.testing.assert_allclose(
        turns["α answers every 1"], turns["joint descent"], rtol=1e-3
    )
    assert found["bank"]["entries"] == 40
    assert found["bank"]["cooperative_norm"] > 0
    check_figures(
        folder,
        *("alpha_identity", "alpha_shapes", "alpha_maps", "alpha_turns", "alpha_bank"),
    )


@pytest.mark.parametrize("name", ["caco", "adco", "moco"])
def test_bank_dynamics_of_a_run(workdir_of, name):
    workdir = workdir_of(name)
    status, out, err = call(
        "bank_dynamics", f"--workdir={workdir}", "--entries=2", "--images=3"
    )
    assert (status, err) == (0, "")
    folder = workdir / "analysis"
    found = read(folder / "bank_dynamics.json")
    assert found["memory"] == ("queue" if name == "moco" else "bank")
    assert [row["step"] for row in found["checkpoints"]] == [3, 6]
    first, last = found["checkpoints"]
    assert first["with_itself_before"] is None
    assert last["with_itself_before"] == pytest.approx(1)
    assert 0 <= last["unused_share"] < 1
    assert ("age_steps" in found) == (name == "moco")
    assert ("steps old on average" in out) == (name == "moco")
    for by_payoff in found["density"]["rank_correlation"].values():
        assert set(by_payoff) == {"p(w|q)", "p(q|w)"}
        assert all(-1 <= value <= 1 for value in by_payoff.values())
    assert out.count("densest over sparsest tenth") == 4
    for figure in ("bank_dynamics", "bank_density", "bank_gallery"):
        assert (folder / f"{figure}.png").stat().st_size > 2000


def test_one_checkpoint_is_said_to_be_one(tmp_path):
    save_run(tmp_path, *SIZES["caco"], steps=(3,))
    status, out, err = call("bank_dynamics", f"--workdir={tmp_path}", "--json")
    assert status == 0
    assert "one checkpoint only, so no change is measured" in err
    saved = read(tmp_path / "analysis" / "bank_dynamics.json")
    assert json.loads(out) == saved  # and nothing else


@pytest.mark.slow
def test_deep_linear_pca_keeps_its_claims_and_shows_the_violations(tmp_path):
    status, out, err = call(
        "deep_linear_pca",
        f"--out={tmp_path}",
        *("--starts=100", "--depths", 1, 2, "--widths", 3),
    )
    assert (status, err) == (0, "")
    found = read(tmp_path / "deep_linear_pca.json")
    assert found["claims_hold"] is True
    assert {row["inputs"] for row in found["networks"]} == {"Gaussian", "digits"}
    for row in found["networks"]:
        assert row["starts"] == 100
        assert row["largest_gap"] <= 1e-6
        assert row["largest_rank_ratio"] <= 1e-3
        assert row["smallest_cosine"] >= 0.999
        assert row["stuck"] == {}
    assert "4 of 4 networks: every start ends at the same energy" in out
    assert "tied: the top two eigenvalues of X_α are tied" in out
    assert "negative: the top eigenvalue of X_α is not above 0" in out
    deep = [
        row
        for row in found["violations"]
        if (row["inputs"], row["depth"]) == ("negative", 2)
    ]
    assert len(deep[0]["stuck"]) == 100
    check_figures(tmp_path, "deep_linear_pca")


@pytest.mark.slow
def test_relu_fixed_points_of_a_small_study(tmp_path):
    status, out, err = call(
        "relu_fixed_points",
        f"--out={tmp_path}",
        *("--seeds=8", "--hidden", 5, "--steps=4", "--batch_size=8"),
        "--ascent_steps=1024",
    )
    assert (status, err) == (0, "")
    found = read(tmp_path / "relu_fixed_points.json")
    linear, relu = found["fixed_points"]["linear"], found["fixed_points"]["relu"]
    assert set(linear["ranks"]) == {1}
    kept = [
        (rank, norm)
        for rank, norm, verified in zip(
            relu["ranks"], relu["gradient_norms"], relu["verified"], strict=True
        )
        if verified
    ]
    assert kept
    assert all(rank > 1 and norm <= 1e-6 for rank, norm in kept)
    assert "linear: 8 of 8 starts at a fixed point" in out
    assert {(row["setup"], row["hidden"]) for row in found["training"]} == {
        (f"{loss}{norm}", 5)
        for loss in ("InfoNCE", "quadratic")
        for norm in ("", ", BatchNorm")
    }
    check_figures(tmp_path, "relu_fixed_points", "relu_units", "relu_covariances")


@pytest.mark.parametrize("name", MAINS)
def test_help_is_given(name):
    status, out, err = call(name, "--help")
    assert (status, err) == (0, "")
    assert "usage: " in out
    said = " ".join(MAINS[name].__globals__["__doc__"].split())
    assert said[:60] in " ".join(out.split())


@pytest.mark.parametrize(
    ("name", "run", "flags", "message"),
    [
        (
            "alpha_gradients",
            "simclr",
            ["--player=bank"],
            "--player: expected a run with a bank, got simclr with the players encoder",
        ),
        (
            "bank_dynamics",
            "simclr",
            [],
            "expected a run with a bank or a queue, got simclr, whose players are: "
            "encoder",
        ),
        (
            "alpha_gradients",
            "caco",
            ["--batch_size=1"],
            r"--batch_size: expected 2 to 64 images .one image has no negatives., got "
            r"1",
        ),
        (
            "alpha_gradients",
            "caco",
            ["--temperatures", 0.5, 0],
            "--temperatures: temperature",
        ),
        ("alpha_gradients", "caco", ["--temperatures=nan"], "--temperatures: temp"),
        (
            "alpha_gradients",
            "caco",
            ["--steps=0"],
            "--steps: expected at least 1, got 0",
        ),
        (
            "alpha_gradients",
            "caco",
            ["--turns", 1, 0],
            r"--turns: expected at least 1, got \[1, 0\]",
        ),
        ("bank_dynamics", "none", [], "--workdir: expected the directory of a run"),
        (
            "relu_fixed_points",
            None,
            ["--batch_size=1"],
            "batch_size: expected at least 2 .one input has no negatives., got 1",
        ),
        (
            "relu_fixed_points",
            None,
            ["--temperature=0"],
            "temperature: expected above 0, got 0.0",
        ),
        (
            "relu_fixed_points",
            None,
            ["--hidden=0"],
            "hidden: expected at least 1, got 0",
        ),
        (
            "relu_fixed_points",
            None,
            ["--seeds=0"],
            "--seeds: expected at least 1, got 0",
        ),
        ("deep_linear_pca", None, ["--depths=0"], "--depths: expected at least 1"),
        (
            "deep_linear_pca",
            None,
            ["--starts=0"],
            "--starts: expected at least 1, got 0",
        ),
        (
            "deep_linear_pca",
            None,
            ["--pairs=none.npz"],
            "--pairs: cannot read none.npz",
        ),
    ],
)
def test_mistakes_are_one_line(workdir_of, tmp_path, name, run, flags, message):
    if run is None:
        place = f"--out={tmp_path}"
    else:
        place = f"--workdir={workdir_of(run) if run in SIZES else tmp_path / run}"
    assert re.search(message, one_line(call(name, place, *flags)))


def save_pairs(path, **arrays):
    rng = np.random.default_rng(0)
    x1 = rng.standard_normal((6, 3))
    np.savez(path, **{"x1": x1, "x2": x1 + 0.1, **arrays})
    return f"--pairs={path}"


ALPHA = np.full((6, 6), 0.1)
FAR = 100 * np.random.default_rng(1).standard_normal((6, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"alpha": np.where(np.eye(6, k=1) > 0, np.nan, ALPHA)},
            "alpha: expected finite weights of at least 0, row 0 has an entry that is "
            "not",
        ),
        (
            {"alpha": np.where(np.arange(6)[:, None] == 4, -ALPHA, ALPHA)},
            "row 4 has a negative entry",
        ),
        (
            {"alpha": ALPHA[:5, :5]},
            r"one weight per pair, shape \(6, 6\), got \(5, 5\)",
        ),
        ({"x2": np.zeros((6, 2))}, "expected arrays of one shape"),
        ({"x2": FAR}, "the top eigenvalue of X_α is not above 0"),
        (
            {"x1": np.eye(6), "x2": np.eye(6), "alpha": ALPHA},
            "the theorem does not apply: the top two eigenvalues of X_α are tied",
        ),
        (
            {"y": np.zeros(2)},
            r"expected arrays x1, x2 and perhaps alpha, got \['x1', 'x2",
        ),
    ],
)
def test_pairs_that_the_theorem_does_not_speak_of_are_one_line(
    tmp_path, arrays, message
):
    flag = save_pairs(tmp_path / "pairs.npz", **arrays)
    err = one_line(call("deep_linear_pca", f"--out={tmp_path / 'out'}", flag))
    assert re.search(message, err)
    assert not (tmp_path / "out").exists()


def test_pairs_of_ones_own_are_climbed(tmp_path):
    flag = save_pairs(tmp_path / "pairs.npz", alpha=ALPHA)
    few = ["--starts=4", "--depths=2", "--widths=3"]
    status, _, err = call("deep_linear_pca", f"--out={tmp_path}", flag, *few)
    assert (status, err) == (0, "")
    (row,) = read(tmp_path / "deep_linear_pca.json")["networks"]
    assert row["inputs"] == "given"
    assert row["smallest_cosine"] >= 0.999
    assert not jax.config.jax_enable_x64  # the precision is the command's own
