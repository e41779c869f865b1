"""The tournament: its statistics, who is chosen, and how it goes on."""

import json
import math
import sys

import numpy as np
import pytest

from caco_jax.data.sources import make_fake_set
from caco_jax.schema import UserError
from experiments.benchmarks import standings, tournament
from experiments.benchmarks.arms import ARMS, BANKS, TRIES, Arm, build, turn_rows
from experiments.benchmarks.book import Book, Piece
from experiments.benchmarks.tournament import Tournament, play_all

PLAN = {"images": 4}


DATA = make_fake_set("28x28x1x400")


def final(arm, seed, few, **measures):
    marks = {"1": {"few": few, **measures}}
    return {
        "stage": "final",
        "arm": arm,
        "number": seed,
        "method": arm,
        "setting": {"temperature": 0.1},
        "milliseconds_a_step": 10.0,
        "marks": marks,
    }


def test_an_interval_is_students():
    # Three values 1, 2, 3: deviation 1; t with 2 degrees of freedom is 4.303.
    mean, half = standings.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert math.isclose(half, 4.302653 / math.sqrt(3), rel_tol=1e-6)
    assert standings.interval([5.0]) == (5.0, None)


def test_a_claim_needs_an_interval_that_excludes_zero():
    assert standings.Interval(1.0, 0.9).excludes_zero
    assert standings.Interval(-1.0, 0.9).excludes_zero
    assert not standings.Interval(1.0, 1.1).excludes_zero
    assert not standings.Interval(9.0, None).excludes_zero


def test_differences_are_paired_by_seed_and_leave_out_a_lone_one():
    rows = [
        *(final("moco", seed, few) for seed, few in ((0, 0.5), (1, 0.7), (2, 0.6))),
        # Two points above at each common seed, whatever the seed does to both.
        *(final("adco", seed, few) for seed, few in ((1, 0.72), (0, 0.52), (7, 0.1))),
    ]
    found = standings.difference(rows, "adco", "moco", epoch=1, measure="few")
    assert math.isclose(found.mean, 2.0) and found.half < 1e-9
    assert standings.difference(rows, "adco", "uel", epoch=1, measure="few") is None
    unpaired = standings.interval([50.0, 70.0, 60.0])
    assert unpaired.half > 20


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, size=(2000, 3))
    found = [standings.interval(list(row)) for row in draws]
    covered = np.mean([abs(mean - 3.0) <= half for mean, half in found])
    assert abs(covered - 0.95) < 0.015


def test_the_report_says_what_may_be_claimed_and_what_the_papers_say():
    rows = [final("moco", seed, 0.5 + seed / 100, knn=0.8) for seed in range(3)]
    rows += [final("adco", seed, 0.55 + seed / 100, knn=0.8) for seed in range(3)]
    text = standings.report(rows)
    assert "| adco | **+5.0 ± 0.0** | +0.0 ± 0.0 |  |" in text
    assert "| adco − moco | above 0, most of all early" in text
    assert "| moco | 3 | 51.0 ± 2.5 | 80.0 ± 0.0 |  | 10 |" in text
    assert "| adco | adco | temperature 0.1 |" in text
    assert "Points of a change" not in text
    rows += [final("adco, no decay", seed, 0.56 + seed / 100) for seed in range(3)]
    assert "| adco, no decay − adco | **+1.0 ± 0.0** |  |  |" in standings.report(rows)
    trial = final("adco", 0, 0.25, knn=0.75, linear=0.5, bank_mass=0.125)
    lines = standings.report([{**trial, "stage": "trial"}]).splitlines()
    assert lines[-1] == "| adco | temperature 0.1 | 25.0 | 75.0 | 50.0 | 12% |"
    assert standings.report([]) == "nothing was played yet"


def test_every_arm_has_as_many_trials():
    assert {len(arm.trials) for arm in ARMS.values()} == {4}
    assert set(BANKS) <= set(ARMS)
    assert {arm.host for arm in TRIES.values()} <= set(ARMS)


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.method])
def test_every_arm_is_a_run(name):
    arm = ARMS[name]
    run = build(
        arm.method, {**arm.fixed, **arm.trials[-1]}, data=DATA, epochs=3, seed=0
    )
    phase = run.method.start_up
    assert run.training.epochs + (phase.epochs if phase else 0) == 3


class Played(Tournament):
    """A tournament whose runs take no time: the score is what the setting says."""

    def play(self, piece, method, setting):
        self.played = [*getattr(self, "played", []), piece]
        row = final(piece.arm, piece.number, setting["score"])
        return {**row, "method": method, "setting": dict(setting)}


def tiny(arms, seeds=range(2)):
    data = make_fake_set("8x8x1x40")
    return Played(data, epochs=3, trial_epochs=2, seeds=seeds, arms=arms)


def trials(*scores):
    return tuple({"score": score} for score in scores)


def test_the_best_trial_trains_with_every_seed(tmp_path):
    played = tiny({"adco": Arm("adco", {"fixed": 1}, trials(0.2, 0.4, 0.3))})
    book = Book(tmp_path / "t.json", PLAN)
    play_all(played, book)
    rows = book.rows()
    assert len(rows) == 5
    for seed in range(2):
        assert rows[Piece("final", "adco", seed)]["setting"] == {
            "fixed": 1,
            "score": 0.4,
        }


def test_an_arm_over_the_best_bank_starts_from_its_settings(tmp_path):
    arms = {
        "clae": Arm("", {}, ({"epsilon": 1}, {"epsilon": 2}), host="best bank"),
        "adco": Arm("adco", {}, trials(0.1, 0.5)),
        "caco": Arm("caco", {"bank": 1}, trials(0.6, 0.2)),
    }
    book = Book(tmp_path / "t.json", PLAN)
    play_all(tiny(arms, seeds=range(1)), book)
    rows = book.rows()
    row = rows[Piece("final", "clae", 0)]
    assert row["method"] == "caco"
    assert row["setting"] == {"bank": 1, "score": 0.6, "epsilon": 1}


def test_a_try_gets_finals_if_it_scores_a_point_above_its_host(tmp_path):
    arms = {
        "caco": Arm("caco", {"bank": 1}, trials(0.6, 0.2)),
        "better": Arm("caco", {"bank": 2}, trials(0.7), host="caco"),
        "near": Arm("caco", {"bank": 3}, trials(0.609), host="caco"),
    }
    book = Book(tmp_path / "t.json", PLAN)
    play_all(tiny(arms, seeds=range(1)), book)
    rows = book.rows()
    assert rows[Piece("trial", "near", 0)]["setting"] == {"bank": 3, "score": 0.609}
    assert Piece("final", "near", 0) not in rows
    assert rows[Piece("final", "better", 0)]["setting"] == {"bank": 2, "score": 0.7}


def test_what_is_in_the_file_is_not_played_again(tmp_path):
    arms = {"adco": Arm("adco", {}, trials(0.2, 0.4))}
    book = Book(tmp_path / "t.json", PLAN)
    play_all(tiny(arms, seeds=range(1)), book)
    more = tiny(arms, seeds=range(3))
    play_all(more, Book(tmp_path / "t.json", PLAN))
    assert more.played == [Piece("final", "adco", 1), Piece("final", "adco", 2)]


def test_a_piece_that_another_process_does_is_left_to_it(tmp_path):
    book = Book(tmp_path / "t.json", PLAN)
    piece = Piece("trial", "adco", 0)
    with book.claim(piece) as mine:
        assert mine
        with Book(tmp_path / "t.json", PLAN).claim(piece) as again:
            assert not again
    with book.claim(piece) as mine:
        assert mine  # a claim ends with who made it


def test_a_file_of_another_tournament_is_refused(tmp_path):
    book = Book(tmp_path / "t.json", PLAN)
    book.add(Piece("final", "adco", 0), final("adco", 0, 0.5))
    with pytest.raises(UserError, match=r"--out: expected measurements of .* name ano"):
        Book(tmp_path / "t.json", {"images": 5})


def test_trials_never_see_the_test_images():
    data = make_fake_set("8x8x1x400")
    inner = tournament.without_test(data)
    both = np.concatenate([inner.train_examples, inner.test_examples])
    assert sorted(map(bytes, both)) == sorted(map(bytes, data.train_examples))


def test_a_row_turns_by_the_angle_and_keeps_length_one():
    rows = np.array([[2.0, 0.0], [0.0, 1e-3]], np.float32)
    turning = turn_rows(10.0)
    pulls = np.array([[0.3, -1e-9], [5.0, 1.0]], np.float32)  # the descent's gradient
    updates, _ = turning.update(pulls, turning.init(rows), rows)
    moved = rows + np.asarray(updates)
    angle = np.radians(10.0)
    wanted = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    np.testing.assert_allclose(moved, wanted, atol=1e-6)


def play_flags(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["tournament", *flags])
    tournament.main()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--methods", "simsiam"], "--methods: expected some of simclr, moco, "),
        (["--budget", "1"], "--budget: expected at least 3, got 1"),
    ],
)
def test_wrong_flags_are_one_line(monkeypatch, tmp_path, flags, message):
    with pytest.raises(UserError) as caught:
        play_flags(monkeypatch, "--source=fake:8x8x1x40", *flags)
    assert str(caught.value).startswith(message)


@pytest.mark.slow
def test_a_tournament_plays_and_only_shows_what_is_done(monkeypatch, tmp_path, capsys):
    out, figure = tmp_path / "t.json", tmp_path / "t.png"
    flags = [
        *("--source=fake:16x16x1x700", "--methods", "adco", "--budget=3"),
        *("--seeds=1", f"--out={out}", f"--figure={figure}"),
    ]
    play_flags(monkeypatch, *flags)
    book = json.loads(out.read_text())
    assert len(book["rows"]) == 5
    end = book["rows"][-1]
    assert list(end["marks"]) == ["1", "2", "3"]
    assert {"few", "knn", "linear", "bank_mass"} <= end["marks"]["3"].keys()
    # One step more: the bank takes a whole epoch of five to fill, all but one counted.
    assert end["steps"] == 3 * (book["plan"]["images"] // 128) + 1
    assert figure.stat().st_size > 1000
    before = out.read_bytes()
    capsys.readouterr()
    play_flags(monkeypatch, *flags, "--show")
    assert "10 labels a class, epoch 3" in capsys.readouterr().out
    assert out.read_bytes() == before
