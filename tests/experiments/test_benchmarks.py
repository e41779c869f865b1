"""The CPU's benchmarks: the one command, what it fits, and starts of a run."""

import pathlib

import jax
import pytest
from PIL import Image

from experiments.benchmarks import growth, startup, summary, timing
from tests.compiling import FAST_COMPILING
from tests.experiments.smoke import smoke

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.xdist_group("benchmark_gpu")
def test_smoke_run_writes_its_parts_and_the_figure(tmp_path):
    out, figure = tmp_path / "new" / "figures.json", tmp_path / "growth.png"
    flags = "--cores=1", "--parts=bank,growth", f"--figure={figure}"
    figures, printed = smoke("", out, *flags)
    assert figures["machine"]["cores"] == 1
    bank = figures["bank"]
    assert bank["ours"]["seconds"]["median"] > 0
    if timing.version("torch") is not None:
        ratio = bank["tuned"]["seconds"]["median"] / bank["ours"]["seconds"]["median"]
        assert bank["tuned_over_ours"] == pytest.approx(ratio)
    devices = figures["growth"]["devices"]
    one, two = devices["bytes_a_device"]
    assert two < one  # each holds its own rows of the bank
    for row in figures["growth"].values():
        fitted = growth.exponent(row["values"], row["seconds"])
        assert row["time_exponent"] == pytest.approx(fitted)
    with Image.open(figure) as image:
        assert min(image.size) >= 300
    assert "time ~ x^" in printed


def test_summary_has_a_line_for_each_comparison():
    def seconds(median):
        return timing.Timing(median, median / 2, 2 * median, 3)

    figures = {
        "bank": {
            "ours": {"seconds": seconds(0.1)},
            "tuned": {"failed": "no compiler"},
            "original": {"seconds": seconds(0.5)},
            "original_over_ours": 5.0,
        },
        "data": {
            "augmentation": {
                "cifar": {"seconds": {"ours": seconds(1.0), "pillow": seconds(3.0)}}
            }
        },
        "start_up": {
            "seconds": {"filled cache": {"median": 4.0}, "no cache": {"median": 10.0}}
        },
    }
    _, _, *lines = summary.table(figures).splitlines()
    assert [line.split(" | ")[-1] for line in lines] == ["5.00 |", "3.00 |", "2.50 |"]
    assert lines[0] == (
        "| bank game | 100.0 ms (50.0-200.0) | PyTorch, original | "
        "500.0 ms (250.0-1,000.0) | 5.00 |"
    )


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponents_are_those_of_power_laws(power):
    values = [8, 16, 64, 128]
    costs = [3 * value**power for value in values]
    assert growth.exponent(values, costs) == pytest.approx(power, abs=1e-12)


def test_every_sweep_grows_a_setting_that_its_side_has():
    for sweep in growth.SWEEPS.values():
        assert sweep.grows in {*sweep.held, "devices"}
        assert list(sweep.values) == sorted(set(sweep.values))


@pytest.mark.slow
def test_first_step_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILING)
    cache = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    seconds = startup.first_step("simclr_digits:smoke", tmp_path / "run", cache)
    assert seconds > 0
    assert (tmp_path / "run").exists()  # the run had begun


@pytest.mark.slow
def test_run_that_ends_early_is_no_start(tmp_path):
    with pytest.raises(RuntimeError, match=r"before its first step: .*--config"):
        startup.first_step("no_such", tmp_path / "run", {})
