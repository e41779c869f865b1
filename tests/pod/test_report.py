"""A whole report: eight virtual CPU devices stand for a slice of TPUs."""

import dataclasses
import json
import math
import re
from typing import Any

import flax.linen as nn
import jax
import pytest

from caco_jax.config.build import build_run
from caco_jax.pod import compile, report
from caco_jax.pod.topology import CHIPS, Slice
from caco_jax.schema import ConfigError
from tests.runs import tiny

N, D = 16, 4  # of the tiny run
BANKS = (40, 80)


class Backbone(nn.Module):
    """A convolution and the library's BatchNorm."""

    norm: Any

    @nn.compact
    def __call__(self, images, *, train):
        maps = nn.Conv(6, (3, 3), use_bias=False)(images)
        maps = nn.relu(self.norm(name="bn1")(maps, train=train))
        return maps.mean(axis=(1, 2))


def config(**changes):
    """The tiny run with the library's norms and no biases."""
    return tiny.config(
        encoder__backbone=f"{__name__}:Backbone",
        encoder__projector="caco",
        encoder__projector_widths=(8, 8, D),
        **changes,
    )


@pytest.fixture(scope="module")
def where(devices):
    return Slice("v5e:2x4", CHIPS["v5e"], (2, 4), tuple(devices))


@pytest.fixture(scope="module")
def reports(where):
    """Of two sizes of the bank."""
    with jax.numpy_rank_promotion("raise"):
        return [
            report.make_report(config(method__bank_size=size), where) for size in BANKS
        ]


def game_rows(one):
    return [row for row in one["collectives"] if row["part"] == "game"]


def test_the_games_traffic_grows_with_the_batch_alone(reports):
    first, second = reports
    assert game_rows(first) == game_rows(second)
    # Queries and keys of two views are gathered, the queries' gradient is scattered;
    # what else there is has a number for each query, or is a metric.
    ring = 7 / 8
    embeddings, numbers = 2 * N * D * 4 * ring, 2 * N * 4 * ring
    sent = {row["kind"]: 0.0 for row in game_rows(first)}
    for row in game_rows(first):
        sent[row["kind"]] += row["sent_bytes"]
    assert sent.pop("all-gather") == 2 * embeddings
    assert sent.pop("reduce-scatter") == embeddings
    assert 0 < sent.pop("all-reduce") <= 2 * 6 * numbers
    assert not sent


def test_the_encoders_gradient_is_all_weights(reports):
    parameters = jax.eval_shape(lambda: build_run(config()).new_network().params)
    weights = {leaf.size for leaf in jax.tree.leaves(parameters) if leaf.ndim > 1}
    rows = [r for r in reports[0]["collectives"] if r["part"] == "encoder gradient"]
    assert {math.prod(row["shape"]) for row in rows} == weights


def test_every_collective_has_its_part(reports):
    sent = reports[0]["sent_bytes"]
    assert {part for part, size in sent.items() if size} == {
        "game",
        "batchnorm",
        "encoder gradient",
        "other",
    }
    others = [r for r in reports[0]["collectives"] if r["part"] == "other"]
    assert [r["shape"] for r in others] == [[], []]
    # Whether all is finite, and the norm of the bank's gradient.
    assert {r["dtype"] for r in others} == {"pred", "f32"}
    assert sum(sent.values()) == pytest.approx(
        sum(row["sent_bytes"] for row in reports[0]["collectives"])
    )


def test_work_is_of_all_parts_and_grows_with_the_bank(reports):
    first, second = (one["work"] for one in reports)
    assert first["total"]["flops"] == pytest.approx(
        sum(first[part]["flops"] for part in first if part != "total")
    )
    # Five products a walk: one for the positives, two each for loss and move.
    grown = second["game"]["flops"] - first["game"]["flops"]
    assert grown == 5 * 2 * (2 * N) * (BANKS[1] - BANKS[0]) / 8 * D
    for part in ("encoder", "encoder gradient"):
        assert first[part]["flops"] == second[part]["flops"] > 0


def test_shuffled_keys_are_shared_by_the_devices(where):
    ordered, shuffled = (
        report.make_report(
            config(encoder__batchnorm_group=2, target__shuffle_keys=shuffle), where
        )["work"]["encoder"]["flops"]
        for shuffle in (False, True)
    )
    assert shuffled == ordered > 0


def test_figures_agree_with_one_another(reports, where):
    one = reports[0]
    assert one["chips"] == 8
    assert (one["batch_size"], one["memory_rows"], one["embedding_dim"]) == (N, 40, D)
    assert one["fits"]
    memory = one["memory_bytes"]
    assert memory["total"] == sum(v for use, v in memory.items() if use != "total")
    assert one["loops_of_unknown_length"] == []
    seconds = one["seconds"]
    assert one["images_per_second"] == pytest.approx(N / seconds["step"])
    assert one["limited_by"] == "latency"  # of so small a step
    assert json.loads(json.dumps(one)) == one


def test_text_for_people(reports):
    text = report.as_text(reports[0])
    first, second, *_ = text.splitlines()
    assert first == "caco on v5e:2x4, 8 chips: batch 16, memory 40 x 4, float32"
    assert second.startswith("fits: 0.00 of 16 GiB a chip (arguments 0.00, outputs 0")
    for part in ("game", "batchnorm", "encoder gradient", "total"):
        assert f"\n{part} " in text
    assert "latency limits it to" in text
    assert re.search(r"of HBM are [\d.]+ times the least of 0\.00 \(activations", text)


def test_a_curve_for_people(reports):
    small = {**reports[0], "topology": "v5e:1x1", "fits": False}
    small = {key: small[key] for key in small if key not in ("seconds", "work")}
    lines = report.curve_text([small, *reports]).splitlines()
    assert lines[0].split()[:3] == ["slice", "chips", "batch"]
    assert lines[1].startswith("v5e:1x1") and "does not fit" in lines[1]
    assert lines[2].endswith("1.00")
    assert len({len(line) for line in lines[2:]}) == 1


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, "
            "the total memory required for HLO temporaries (95.87G) exceeds available "
            "HBM (15.75G). HLO module: jit_dispatch.",
            95.87,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 900.00M "
            "of 15.75G hbm. Exceeded hbm capacity by 6.75G.",
            900 / 1024,
        ),
        ("RESOURCE_EXHAUSTED: no room.", 0),
    ],
)
def test_what_does_not_fit_is_said(where, message, gib):
    class Refused:
        def compile(self):
            raise jax.errors.JaxRuntimeError(message)

    compiled = compile.compile_lowered(Refused, where)
    one = report.describe(compiled, config(), where)
    assert not one["fits"]
    assert one["memory_bytes"]["total"] == pytest.approx(gib * 2**30)
    needs = f": it needs {gib:.2f} or more" if gib else ""
    assert report.as_text(one).endswith(f"\ndoes not fit in 16 GiB a chip{needs}")


def test_a_quick_compile_is_told_so(where):
    efforts = []

    class Lowered:
        def compile(self):
            efforts.append(jax.config.jax_exec_time_optimization_effort)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room.")

    for quick in (True, False):
        compiled = compile.compile_lowered(Lowered, where, quick=quick)
        one = report.describe(compiled, config(), where, quick=quick)
        assert one["quick"] == quick
        assert report.as_text(one).splitlines()[0].endswith("quickly") == quick
    assert efforts == [-1.0, 0.0]


def test_other_refusals_are_not_hidden(where):
    def fail():
        raise jax.errors.JaxRuntimeError("INTERNAL: the compiler is broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="the compiler is broken"):
        compile.compile_lowered(fail, where)
    assert jax.config.jax_enable_compilation_cache


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training__batch_size": 12},
            "config.training.batch_size: expected a multiple of the 8 devices, got 12",
        ),
        (
            {"method__bank_size": 44},
            "config.method.bank_size: expected a multiple of the 8 devices, got 44",
        ),
    ],
)
def test_sizes_that_the_slice_does_not_divide(where, changes, message):
    with pytest.raises(ConfigError) as caught:
        report.make_report(config(**changes), where)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "streamed"),
    [
        ("tfds:imagenet2012", True),
        ("tfds:cifar10", False),
        ("cifar100:not/here", False),
    ],
)
def test_no_data_set_need_be_there(source, streamed, devices):
    frozen = tiny.config(data__source=source, data__views="cifar")
    images = compile.stand_in(frozen.data)
    run = build_run(frozen, data=images)
    assert hasattr(images, "train") == streamed
    count = 1_281_167 if streamed else 50_000
    assert run.steps_per_epoch == count // frozen.training.batch_size
    digits = dataclasses.replace(frozen.data, source="digits")
    assert compile.stand_in(digits) is None


def test_a_resident_set_is_an_argument(devices):
    resident = tiny.config(data__source="tfds:cifar10", data__views="cifar")
    run = build_run(resident, data=compile.stand_in(resident.data))
    assert "tensor<50000x32x32x3xui8>" in run.lower_step().as_text()
