"""Deep linear networks under fixed α are PCA: caco analyse deep-linear.

Runs projected gradient ascent on the energy from many random initialisations, in double
precision, for several depths and widths, on Gaussian inputs and on digits; then two
cases that violate the theorem's conditions. Writes deep_linear_pca.json and .png into
OUT.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.analysis import deep_linear, plots_networks
from caco_jax.analysis import pairs as inputs
from caco_jax.analysis.deep_linear import Ascent, Verdict
from caco_jax.analysis.pairs import Pairs
from caco_jax.analysis.plots_networks import AscentCurves
from caco_jax.programs.command import as_user_error, aside, print_json
from caco_jax.programs.flags import parser_of
from caco_jax.runs.checkpoints import write_json
from caco_jax.schema import UserError

GAP, RATIO, COSINE = 1e-6, 1e-3, 0.999  # tolerances of the theorem's claims


def read_pairs(path: str) -> Pairs:
    """Views and weights from the caller's file."""
    try:
        with np.load(path) as arrays:
            given = {name: jnp.asarray(arrays[name]) for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UserError(f"--pairs: cannot read {path}: {error}") from None
    if not {"x1", "x2"} <= given.keys() <= {"x1", "x2", "alpha"}:
        raise UserError(
            f"--pairs: expected arrays x1, x2 and perhaps alpha, got {sorted(given)}"
        )
    with as_user_error("--pairs"):
        return inputs.given_pairs(**given)


def climb(pairs: Pairs, depth: int, width: int, flags: Any) -> tuple[Ascent, Verdict]:
    """Gradient ascent of one network from all initialisations."""
    covariance = pairs.covariance
    sizes = (len(covariance), *[width] * depth)
    keys = jax.random.split(jax.random.key(flags.seed + 1), flags.starts)
    starts = jax.vmap(lambda key: deep_linear.random_weights(key, sizes))(keys)
    ascent = deep_linear.ascend(covariance, starts)
    return ascent, deep_linear.judge(ascent, covariance)


def describe(name: str, depth: int, width: int, verdict: Verdict) -> dict[str, Any]:
    """One row of the table, printed."""
    row = {
        "inputs": name,
        "depth": depth,
        "width": width,
        "starts": len(verdict.gaps),
        "largest_gap": float(np.abs(verdict.gaps).max()),
        "largest_rank_ratio": float(verdict.rank_ratios.max()),
        "smallest_cosine": float(verdict.cosines.min()),
        "stuck": verdict.stuck,
    }
    print(
        f"{name:10}{depth:6}{width:6}{row['largest_gap']:12.1e}"
        f"{row['largest_rank_ratio']:12.1e}{row['smallest_cosine']:12.6f}"
        f"{len(verdict.stuck):7} of {row['starts']}"
    )
    for reason in sorted(set(verdict.stuck.values()))[:2]:
        print(f"{'':22}{reason}")
    return row


def table(cases: dict[str, Pairs], flags: Any) -> tuple[list[dict], dict[tuple, tuple]]:
    """Rows for every network on every input, and the ascents."""
    print(
        f"{'inputs':10}{'depth':>6}{'width':>6}{'energy gap':>12}{'σ2/σ1':>12}"
        f"{'|cos|':>12}{'stuck':>7}"
    )
    rows, climbs = [], {}
    for name, pairs in cases.items():
        for depth in flags.depths:
            for width in flags.widths:
                climbs[name, depth, width] = climb(pairs, depth, width, flags)
                rows.append(describe(name, depth, width, climbs[name, depth, width][1]))
    return rows, climbs


def curves(pairs: Pairs, ascent: Ascent) -> AscentCurves:
    """Curves of an ascent for the figure."""
    return AscentCurves(
        ascent.curve_steps,
        deep_linear.energy_gaps(ascent.energy_curve, pairs.covariance),
    )


def draw(cases: dict[str, Pairs], climbs: dict[tuple, tuple], flags: Any) -> None:
    """Draws the figure."""
    shallow, deep = min(flags.depths), max(flags.depths)
    two = sorted(flags.depths)[:2]
    width = max(flags.widths)
    plots_networks.plot_pca(
        {
            f"{name}, depth {depth}": curves(cases[name], climbs[name, depth, width][0])
            for name in ("Gaussian", "digits")
            for depth in (shallow, deep)
        },
        deep_linear.in_top_plane(
            climbs["tied", deep, width][0], cases["tied"].covariance
        ),
        {
            f"depth {depth}": curves(
                cases["negative"], climbs["negative", depth, width][0]
            )
            for depth in two
        },
        pathlib.Path(flags.out) / "deep_linear_pca.png",
    )


def check_flags(flags: Any) -> None:
    """Refuses impossible numbers."""
    for name in ("depths", "widths"):
        if min(getattr(flags, name)) < 1:
            raise UserError(
                f"--{name}: expected at least 1, got {getattr(flags, name)}"
            )
    if flags.starts < 1:
        raise UserError(f"--starts: expected at least 1, got {flags.starts}")


def study(flags: Any) -> dict[str, Any]:
    """Tests the claims of the theorem, and two violations of its conditions."""
    key = jax.random.key(flags.seed)
    holds = {
        "Gaussian": inputs.gaussian_pairs(key),
        "digits": inputs.digit_pairs(seed=flags.seed),
    }
    violations = {
        "tied": inputs.tie_top_eigenvalues(holds["Gaussian"]),
        "negative": inputs.gaussian_pairs(key, noise=3.0),
    }
    rows, climbs = table(holds, flags)
    kept = [
        row["largest_gap"] <= GAP
        and row["largest_rank_ratio"] <= RATIO
        and row["smallest_cosine"] >= COSINE
        for row in rows
    ]
    print(
        f"{sum(kept)} of {len(kept)} networks: every start ends at the same energy "
        f"(gap <= {GAP:g}), rank 1 (<= {RATIO:g}), on the top eigenvector "
        f"(>= {COSINE:g})\n"
    )
    for name, pairs in violations.items():
        print(f"{name}: {'; '.join(deep_linear.failed_conditions(pairs.covariance))}")
    more_rows, more = table(violations, flags)
    draw(holds | violations, climbs | more, flags)
    return {"claims_hold": all(kept), "networks": rows, "violations": more_rows}


def analyse(flags: Any) -> dict[str, Any]:
    """The study, or the theorem on the caller's pairs, printed, drawn and saved."""
    out = pathlib.Path(flags.out)
    if flags.pairs is None:
        out.mkdir(parents=True, exist_ok=True)
        result = study(flags)
    else:
        pairs = read_pairs(flags.pairs)
        with as_user_error("--pairs"):
            deep_linear.check_theorem(pairs.covariance, (pairs.x1.shape[1], 1))
        out.mkdir(parents=True, exist_ok=True)
        result = {"networks": table({"given": pairs}, flags)[0]}
    write_json(out / "deep_linear_pca.json", result)
    return result


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("deep_linear_pca").parse_args()
    check_flags(flags)
    with aside(flags), jax.enable_x64(True):
        result = analyse(flags)
    print_json(flags, result)
