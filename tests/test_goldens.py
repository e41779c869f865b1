"""Every golden case, every array it gives an expected value for, in both precisions.

The goldens are numbers that the authors' released code printed. They come from the
directory in CACO_GOLDENS (default ../shared/goldens beside the checkout); where it is
absent these tests skip, and the NumPy oracles of the other tests stand alone.
"""

import importlib
import itertools
import os
import pathlib
import pkgutil
import re

import jax
import numpy as np
import pytest

import tests.goldens

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDENS = pathlib.Path(
    os.environ.get("CACO_GOLDENS", ROOT.parent / "shared" / "goldens")
)
FILES = sorted(GOLDENS.glob("*.npz")) if GOLDENS.is_dir() else []
EXPECTED = re.compile(
    r"(s\d+_)?out_|features_eval$|projection_(eval|train)$|train_loss$|grad_norm/|stats/"
)

# Largest error allowed, relative to the largest entry: case, array, float32, float64.
# The first row that matches both names holds; None means "float64 only".
TOLERANCES: list[tuple[str, str, float | None, float]] = [
    (r"caco_(sym|multicrop)", r".*", 1e-5, 1e-10),
    (r"adco.*", r".*", 2e-5, 1e-10),
    (r"bank_init.*", r".*", 5e-5, 1e-9),
    (r"caco_e2e", r".*", 1e-4, 1e-9),
    (r"moco_ema", r".*", 2e-5, 1e-10),
    (r"lars", r".*", 1e-5, 1e-12),
    (r"schedules", r".*", 1e-6, 1e-12),
    (r"knn", r".*", 1e-5, 1e-12),
    (r"uel_criterion|clae_uel.*", r".*", 1e-4, 1e-10),
    (r"ntxent|plain_criterion", r".*", 1e-5, 1e-10),
    (r"clae_.*", r".*", 2e-5, 1e-10),
    (r"alpha_.*", r".*", 1e-5, 1e-10),
    (r"contrastive_covariance", r".*", 2e-5, 1e-10),
    (r"resnet18", r".*_eval", 1e-5, 1e-9),
    (r"resnet18", r"grad_norm/.*", 1e-3, 1e-9),
    (r"resnet18", r".*", 1e-4, 1e-9),
    (r"resnet50", r".*_eval", 1e-5, 1e-8),
    (r"resnet50", r"grad_norm/.*", None, 1e-8),
    (r"resnet50", r".*", 5e-3, 1e-8),
]
# Here the leading axis stacks settings of unlike scale: each is compared by itself.
STACKED = re.compile(
    r"alpha_cl|alpha_quadratic|ntxent|plain_criterion|uel_criterion|knn|"
    r"contrastive_covariance"
)


def _collect(table):
    """The tables of one name that the modules of `tests.goldens` have, as one."""
    found = {}
    for module in pkgutil.iter_modules(tests.goldens.__path__, "tests.goldens."):
        found |= getattr(importlib.import_module(module.name), table, {})
    return found


CASES, WANTED = _collect("CASES"), _collect("WANTED")


def _tolerance(case: str, array: str, dtype: type) -> float | None:
    for case_pattern, array_pattern, single, double in TOLERANCES:
        if re.fullmatch(case_pattern, case) and re.fullmatch(array_pattern, array):
            return single if dtype is np.float32 else double
    raise AssertionError(f"no tolerance is stated for {case}: {array}")


def _error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest error relative to the largest entry; absolute for arrays of rounding."""
    assert np.array_equal(np.isnan(got), np.isnan(want)), "NaN in other places"
    largest = np.max(np.abs(want), where=~np.isnan(want), initial=0.0)
    error = np.max(np.abs(got - want), where=~np.isnan(want), initial=0.0)
    if largest < 1e-9:  # zero in exact arithmetic, noise in the reference
        return 0.0 if error < 1e-6 else float("inf")
    return error / largest


def _compared(case: dict, name: str, got: np.ndarray, want: np.ndarray):
    """The entries that the case allows to compare."""
    if name == "out_x_adv":  # the sign of a gradient near zero is anybody's guess
        steep = np.abs(case["out_grad_x"]) > 1e-4 * np.abs(case["out_grad_x"]).max()
        return got[steep], want[steep]
    if name == "out_ranking":  # the order among classes without a vote is arbitrary
        votes = np.take_along_axis(case["out_scores"], want, axis=-1)
        gap = np.abs(np.diff(votes, axis=-1, append=np.nan)) > 1e-9
        clear = np.logical_and.accumulate(gap, axis=-1)
        return got[clear], want[clear]
    return got, want


def test_goldens_are_there():
    if not FILES:
        pytest.skip(f"no goldens in {GOLDENS}: set CACO_GOLDENS to their directory")
    unknown = {file.stem for file in FILES} - set(CASES)
    assert not unknown, f"no function recomputes {sorted(unknown)}"


# In single precision whole steps and networks are what they are in double, rounded:
# one of each kind is enough for every change.
SLOW = re.compile(
    r"resnet50-.*|(resnet18|clae_.*|adco.*|caco_(sym|multicrop)|bank_init.*|alpha_cl|"
    r"knn)-float32"
)
DTYPES = {"float64": np.float64, "float32": np.float32}


def _runs():
    for file, (name, dtype) in itertools.product(FILES, DTYPES.items()):
        run = f"{file.stem}-{name}"
        marks = [pytest.mark.slow] if SLOW.fullmatch(run) else []
        yield pytest.param(file, dtype, id=run, marks=marks)


@pytest.mark.parametrize("file, dtype", list(_runs()))
def test_golden(file, dtype):
    with np.load(file, allow_pickle=False) as arrays:
        case = dict(arrays)
    case |= WANTED.get(file.stem, lambda case: {})(case)
    with jax.enable_x64(dtype is np.float64):
        results = CASES[file.stem](case, dtype)
    wanted = {name for name in case if EXPECTED.match(name)}
    assert wanted, "the case expects nothing"
    assert wanted <= set(results), f"not recomputed: {sorted(wanted - set(results))}"
    failures = []
    for name in sorted(wanted):
        tolerance = _tolerance(file.stem, name, dtype)
        if tolerance is None:
            continue
        got, want = np.asarray(results[name]), case[name]
        assert got.shape == want.shape, f"{name}: {got.shape} is not {want.shape}"
        exact = np.issubdtype(want.dtype, np.integer)
        if STACKED.match(file.stem) and want.ndim and name != "out_ranking":
            pairs = list(zip(got, want, strict=True))
        else:
            pairs = [_compared(case, name, got, want)]
        for got_part, want_part in pairs:
            if exact:
                error = float(np.any(got_part != want_part))
            else:
                error = _error(
                    np.asarray(got_part, np.float64), np.asarray(want_part, np.float64)
                )
            if error > (0 if exact else tolerance):
                failures.append(f"{name}: {error:.2g}")
    assert not failures, f"beyond tolerance: {failures}"
