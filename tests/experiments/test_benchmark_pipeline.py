"""The pipeline's benchmark runs, and says how many workers were needed."""

import os

import pytest

from experiments.benchmarks import pipeline
from tests.experiments.smoke import smoke


@pytest.mark.slow
def test_smoke_run_writes_its_figures(tmp_path):
    figures, printed = smoke("pipeline", tmp_path / "figures.json", "--workers=1,0")
    rows = figures["by_workers"]
    assert list(rows) == ["1", "0"]
    for row in rows.values():
        resident, streamed = (
            row["seconds_a_step"][side]["median"] for side in ("resident", "streamed")
        )
        assert row["growth"] == pytest.approx(streamed / resident - 1)  # of one round
        assert row["images_per_second"]["step"] == pytest.approx(8 / resident)
        assert row["images_per_second"]["workers"] > 0
    limit = pipeline.MOST_GROWTH
    enough = [int(name) for name, row in rows.items() if row["growth"] <= limit]
    assert figures["workers_needed"] == min(enough, default=None)
    assert "workers needed for at most 5% of growth: " in printed


def test_workers_and_the_step_share_the_cores_of_a_cpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert pipeline.share_cores(1) == ({0}, {1, 2, 3})
    assert pipeline.share_cores(8) == ({0, 1}, {2, 3})
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert pipeline.share_cores(8) == (set(), set())


def test_files_are_photographs_of_the_stated_size():
    for jpeg in pipeline.make_jpegs(2):
        assert jpeg[:2] == b"\xff\xd8"
        assert pipeline.cv2.imdecode(
            pipeline.np.frombuffer(jpeg, pipeline.np.uint8), pipeline.cv2.IMREAD_COLOR
        ).shape == (375, 500, 3)
        assert len(jpeg) > 20_000
