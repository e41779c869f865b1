"""Fixed points of two-layer ReLU networks: caco analyse relu.

Finds fixed points of the energy under fixed α from many initialisations, for ReLU and
linear networks, in double precision. Then repeats the released training set-up over
hidden sizes, with and without BatchNorm, with InfoNCE and the quadratic loss. Writes
relu_fixed_points.json and relu_*.png into OUT.
"""

import itertools
import pathlib
from typing import Any

import jax
import numpy as np

from caco_jax.analysis import plots_networks, relu_training, two_layer_relu
from caco_jax.analysis.pairs import mixture_views, weighted_pairs
from caco_jax.analysis.plots_networks import Spread
from caco_jax.analysis.relu_training import Setting, Trained
from caco_jax.analysis.two_layer_relu import FIXED, FixedPoints
from caco_jax.programs.command import as_user_error, aside, print_json
from caco_jax.programs.flags import parser_of
from caco_jax.runs.checkpoints import write_json
from caco_jax.schema import UserError

LOSS_NAMES = {"infonce": "InfoNCE", "quadratic": "quadratic"}
MEASURES = ("concentrations", "coverages")


def keys(flags: Any, stream: int) -> jax.Array:
    """A key for each network."""
    return jax.random.split(jax.random.key(2 * flags.seed + stream), flags.seeds)


def fixed_points(flags: Any) -> dict[str, FixedPoints]:
    """Fixed points by activation, printed and drawn."""
    x1, x2 = mixture_views(jax.random.key(flags.seed), count=64)
    pairs = weighted_pairs(x1, x2)
    found = {
        activation: two_layer_relu.ascend(
            keys(flags, 0), *pairs, activation=activation, steps=flags.ascent_steps
        )
        for activation in two_layer_relu.ACTIVATIONS
    }
    for name, points in found.items():
        counts = np.bincount(points.verified_ranks)
        spread = ", ".join(f"{n} of rank {r}" for r, n in enumerate(counts) if n)
        print(
            f"{name}: {len(points.verified_ranks)} of {flags.seeds} starts at a fixed "
            f"point (projected gradient norm <= {FIXED:g}): {spread or 'none'}"
        )
    return found


def draw_fixed_points(found: dict[str, FixedPoints], out: pathlib.Path) -> None:
    """Draws the fixed points, if one of a ReLU network was verified."""
    example = found["relu"].highest()
    if example is not None:
        plots_networks.plot_fixed_points(
            {name: points.verified_ranks for name, points in found.items()},
            np.asarray(example.first),
            out / "relu_fixed_points.png",
        )


def setups(flags: Any) -> dict[str, list[Setting]]:
    """The trained settings by name, one for each hidden size."""
    common = {"batch_size": flags.batch_size, "temperature": flags.temperature}
    return {
        f"{name}{', BatchNorm' if norm else ''}": [
            Setting(hidden=hidden, loss=loss, batch_norm=norm, **common)
            for hidden in flags.hidden
        ]
        for (loss, name), norm in itertools.product(LOSS_NAMES.items(), (True, False))
    }


def train(flags: Any, settings: dict[str, list[Setting]]) -> dict[str, list[Trained]]:
    """All networks of all settings, printed as they come."""
    print(f"\n{'':24}{'hidden':>7}{'concentration':>18}{'coverage':>18}{'rank':>7}")
    trained: dict[str, list[Trained]] = {}
    for name, by_size in settings.items():
        for setting in by_size:
            with as_user_error("--steps"):
                done = relu_training.train(keys(flags, 1), setting, steps=flags.steps)
            trained.setdefault(name, []).append(done)
            columns = "".join(
                f"{getattr(done, measure)[-1].mean():12.3f} ± "
                f"{getattr(done, measure)[-1].std():.3f}"
                for measure in MEASURES
            )
            print(f"{name:24}{setting.hidden:7}{columns}{done.ranks[-1].mean():7.1f}")
    return trained


def draw_training(
    trained: dict[str, list[Trained]], hidden: list[int], out: pathlib.Path
) -> None:
    """Units by hidden size, and covariances during training."""
    last = {
        measure: {
            name: Spread(
                [getattr(done, measure)[-1].mean() for done in by_size],
                [getattr(done, measure)[-1].std() for done in by_size],
            )
            for name, by_size in trained.items()
        }
        for measure in MEASURES
    }
    titles = {"concentration": last[MEASURES[0]], "coverage": last[MEASURES[1]]}
    plots_networks.plot_units(hidden, titles, out / "relu_units.png")
    middle = len(hidden) // 2
    plots_networks.plot_covariances(
        next(iter(trained.values()))[0].steps,
        {
            name: (by_size[middle].inter, by_size[middle].intra)
            for name, by_size in trained.items()
        },
        out / "relu_covariances.png",
    )


def rows(trained: dict[str, list[Trained]], hidden: list[int]) -> list[dict[str, Any]]:
    """The saved results of training: means over seeds at every recorded step."""
    names = ("losses", "concentrations", "coverages", "ranks", "inter", "intra")
    return [
        {"setup": name, "hidden": size, "steps": done.steps.tolist()}
        | {
            f"{measure}_{kind}": getattr(getattr(done, measure), kind)(axis=1).tolist()
            for measure in names
            for kind in ("mean", "std")
        }
        for name, by_size in trained.items()
        for size, done in zip(hidden, by_size, strict=True)
    ]


def analyse(flags: Any, settings: dict[str, list[Setting]]) -> dict[str, Any]:
    """Fixed points and training, printed, drawn and saved."""
    out = pathlib.Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    with jax.enable_x64(True):
        found = fixed_points(flags)
        draw_fixed_points(found, out)
    trained = train(flags, settings)
    draw_training(trained, flags.hidden, out)
    result = {
        "fixed_points": {name: points.summary() for name, points in found.items()},
        "training": rows(trained, flags.hidden),
    }
    write_json(out / "relu_fixed_points.json", result)
    return result


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("relu_fixed_points").parse_args()
    if flags.seeds < 1:
        raise UserError(f"--seeds: expected at least 1, got {flags.seeds}")
    with as_user_error("--hidden, --batch_size, --temperature"):
        settings = setups(flags)
    with aside(flags):
        result = analyse(flags, settings)
    print_json(flags, result)
