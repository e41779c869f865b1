"""Five hundred bad configurations: as many lines and as many runs left alone."""

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from caco_jax.config.sections import ExperimentConfig, OptimizerConfig
from caco_jax.methods.registry import METHODS
from caco_jax.programs import command, pretrain
from caco_jax.runs.workdir import Workdir
from caco_jax.schema import Range
from tests.experiments.commands import call, error_lines
from tests.runs.test_checkpoints import CONFIG, snapshot

# Nothing is shrunk: the first one that is not refused says enough.
few = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def sections():
    """(method, name of a section, its class), each section once."""
    for field in dataclasses.fields(ExperimentConfig):
        section = typing.get_type_hints(ExperimentConfig)[field.name]
        if dataclasses.is_dataclass(section):
            yield "caco", field.name, section
    yield "caco", "bank_optimizer", OptimizerConfig
    for method, (section, _) in METHODS.items():
        yield method, "method", section


def fields():
    """(method, dotted key, type, what is allowed) of every field of the schema."""
    top = [("caco", "", ExperimentConfig)]
    for method, name, section in [*top, *sections()]:
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            if field.metadata:
                key = f"{name}.{field.name}".lstrip(".")
                yield method, key, hints[field.name], field.metadata["allowed"]


words = st.text("abcxyz_-äß\n\0", min_size=1, max_size=5)
mappings = st.dictionaries(words, st.integers(), max_size=2)
whole = st.integers(-(2**70), 2**70)
broken = st.sampled_from([0.5, -1.25, 1e300])
endless = st.sampled_from([float("inf"), float("nan")])  # on a command line: words
OF_TYPE = {
    bool: st.booleans(),
    int: whole,
    float: broken,
    str: words,
    tuple: st.lists(whole | words, max_size=3).map(tuple),
    dict: mappings,
    type(None): st.none(),
}


def arms(hint):
    """The types that a hint allows, without what is in a tuple."""
    found = typing.get_args(hint) if isinstance(hint, type(int | None)) else (hint,)
    return {typing.get_origin(arm) or arm for arm in found}


def of_another_type(hint):
    allowed = arms(hint)
    allowed |= {int} if float in allowed else set()
    allowed |= {dict} if Mapping in allowed else set()
    return st.one_of(*(OF_TYPE[kind] for kind in OF_TYPE if kind not in allowed))


def out_of_range(hint, allowed):
    """Values of the right type that are not allowed, or None where all are."""
    if allowed is None:
        return None
    if not isinstance(allowed, Range):
        return words.filter(lambda word: word not in allowed)
    number = whole if arms(hint) & {int, tuple} else broken | endless
    bad = number.filter(lambda value: value not in allowed)
    return bad.map(lambda value: (2, value)) if tuple in arms(hint) else bad


def bad_values(hint, allowed):
    others = out_of_range(hint, allowed)
    kinds = of_another_type(hint)
    return kinds if others is None else kinds | others


# Each alone is allowed, together they are not: draws of assignments.
def conflict(**values):
    keys = [key.replace("__", ".") for key in values]
    return st.tuples(*values.values()).map(
        lambda drawn: dict(zip(keys, drawn, strict=True))
    )


def just(value):
    return st.just(value)


small = st.integers(1, 7)
CONFLICTS = {
    "a warm-up past the end": conflict(
        training__epochs=small, optimizer__warmup_epochs=st.integers(8, 99)
    ),
    "the bank's warm-up past the end": conflict(
        training__epochs=small, bank_optimizer__warmup_epochs=st.integers(8, 99)
    ),
    "groups that do not divide the batch": conflict(
        training__batch_size=just(16), encoder__batchnorm_group=st.integers(17, 99)
    ),
    "parts that do not divide the batch": conflict(
        training__batch_size=just(16), training__microbatches=st.integers(17, 99)
    ),
    "a shuffle that changes nothing": conflict(
        encoder__batchnorm_group=just(None), target__shuffle_keys=just(True)
    ),
    "milestones without factors": conflict(
        optimizer__schedule=just("steps"),
        optimizer__milestones=st.lists(small, min_size=1, unique=True).map(sorted),
    ),
    "milestones that fall": conflict(
        optimizer__schedule=just("steps"),
        optimizer__milestones=st.tuples(st.integers(8, 99), small),
        optimizer__milestone_factors=just((0.1, 0.2)),
    ),
    "milestones nobody asks for": conflict(
        optimizer__milestones=st.tuples(small),
        optimizer__milestone_factors=just((0.1,)),
    ),
    "more in a batch than there are": conflict(
        data__source=just("fake:8x8x1x48"), training__batch_size=st.integers(49, 999)
    ),
    "a bank that the devices cannot share": conflict(
        method__bank_size=st.integers(2, 999).filter(lambda size: size % 8)
    ),
    "layers that CaCo's projector has not": conflict(
        encoder__projector=just("caco"),
        encoder__projector_widths=st.tuples(small, small)
        | st.tuples(small, st.integers(8, 9), small),
    ),
    "a size for views that have the images'": conflict(
        data__views=just("digits"), data__view_size=small
    ),
    "splits of a set that has none": conflict(data__train_split=words),
    "a folder that is not there": conflict(
        data__source=words.map("folder:/nowhere/{}".format)
    ),
    "images of no shape": conflict(data__source=words.map("fake:8x{}".format)),
}
NO_BANK = [method for method in METHODS if method not in ("caco", "adco")]


@pytest.fixture
def start(tmp_path):
    """Starts pretraining over and over, and counts; each must be refused."""
    there, count = Workdir(tmp_path / "there"), [0]
    there.claim(CONFIG)
    before = snapshot(tmp_path)

    def start(method, assignments):
        count[0] += 1
        workdir = (there.path, tmp_path / "new")[count[0] % 2]
        source = {"data.source": "fake:8x8x1x48", "training.batch_size": 16}
        source |= {"optimizer.warmup_epochs": 0, "bank_optimizer.warmup_epochs": 0}
        if method in NO_BANK:
            del source["bank_optimizer.warmup_epochs"]
        flags = [f"--config.{key}={v!r}" for key, v in (source | assignments).items()]
        recipe = f"--config=configs/{method}_digits.py"
        lines = error_lines(call(pretrain.main, recipe, f"--workdir={workdir}", *flags))
        names = [key.rpartition(".")[2].split("\n")[0] for key in assignments]
        for line in lines:
            assert line.startswith(("config.", "--config.")), line
            assert any(name in line for name in names), line
        if (tmp_path / "new").exists():
            pytest.fail("a directory was made")

    yield start
    assert snapshot(tmp_path) == before
    assert count[0] >= 500


def unknown_keys(name, section):
    known = {field.name for field in dataclasses.fields(section)}
    keys = words.filter(lambda key: key not in known and "." not in key)
    return keys.map(lambda key: {f"{name}.{key}": 1})


def mistakes():
    """(how many to draw, method, a strategy of assignments)."""
    for method, key, hint, allowed in fields():
        yield 6, method, st.fixed_dictionaries({key: bad_values(hint, allowed)})
    for assignments in CONFLICTS.values():
        yield 4, "caco", assignments
    for method, name, section in sections():
        yield 2, method, unknown_keys(name, section)
        yield 1, method, st.just({name: 3})
    for method in NO_BANK:
        yield 1, method, st.just({"bank_optimizer": {"learning_rate": 1.0}})


def draw(count, strategy, act):
    @few(max_examples=count)
    @given(strategy)
    def one(value):
        act(value)

    one()


def test_five_hundred_bad_configurations_are_five_hundred_lines(start):
    for count, method, assignments in mistakes():
        draw(count, assignments, functools.partial(start, method))


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    wrong = {
        "data.source": "fake:8x8x3x48",
        "training.batch_size": 512,
        "training.epochs": 3,
        "optimizer.warmup_epochs": 10,
        "data.view_size": 16,
        "encoder.projector_widths": (8, 4),
    }
    flags = [f"--config.{key}={value}" for key, value in wrong.items()]
    flags += ["--config=caco_digits", f"--workdir={tmp_path / 'run'}"]
    lines = error_lines(call(pretrain.main, *flags))
    assert [line.partition(":")[0] for line in lines] == [
        "config.optimizer.warmup_epochs",
        "config.bank_optimizer.warmup_epochs",
        "config.data.view_size",
        "config.encoder.projector_widths",
        "config.training.batch_size",
    ]
    assert not (tmp_path / "run").exists()


def test_all_wrong_values_are_said_at_once(tmp_path):
    wrong = ["training.batch_size=big", "training.epoch=3", "optimizer.name=sdg"]
    wrong += ["seed=-1", "method.bank_sise=8", "method.x=1"]
    flags = [f"--config.{assignment}" for assignment in wrong]
    flags += ["--config=caco_digits", f"--workdir={tmp_path / 'run'}"]
    lines = error_lines(call(pretrain.main, *flags))
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        f"config.{assignment.partition('=')[0]}" for assignment in wrong
    )


def test_only_the_writers_of_a_failed_save_are_not_heard(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: heard.append(error[1]))
    monkeypatch.setattr(
        sys, "unraisablehook", lambda ignored: heard.append(ignored.exc_value)
    )
    for _ in range(2):  # the second time changes nothing
        command._spare_writers()
    ours, theirs = RuntimeError("ours"), RuntimeError("Event loop is closed")
    for error in (theirs, ours):
        sys.excepthook(type(error), error, None)
        sys.unraisablehook(types.SimpleNamespace(exc_value=error))
    assert heard == [ours, ours]
