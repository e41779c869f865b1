"""Pairwise importance in a trained encoder: caco analyse alpha.

Checks with jax.grad, layer by layer, that the gradient of every member of the (phi,
psi) family is minus that of its energy. Shows which pairs each importance weights,
plays the alternating game, and analyses the bank of a run as pairs, if it has one.
Writes alpha_gradients.json and alpha_*.png into WORKDIR/analysis.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax import losses
from caco_jax.analysis import alpha_game, bank, importance, plots_alpha, snapshots
from caco_jax.analysis.importance import ImportanceSummary, Weighing
from caco_jax.analysis.plots_alpha import ShapeCurves
from caco_jax.losses import checks
from caco_jax.methods.caco import CacoConfig
from caco_jax.programs.command import as_user_error, aside, print_json
from caco_jax.programs.flags import parser_of
from caco_jax.runs.checkpoints import write_json
from caco_jax.schema import UserError

TOLERANCES = {
    False: 1e-4,
    True: 1e-9,
}  # largest relative error of the gradient identity, by --x64


class Subject:
    """The newest state of a run and one batch, in the precision of --x64."""

    def __init__(self, flags: Any) -> None:
        self.dtype = jnp.float64 if flags.x64 else jnp.float32
        self.files, self.pretraining = snapshots.read_parts(flags.workdir)
        step = snapshots.saved_steps(self.files)[-1]
        self.state = snapshots.read_state(self.files, self.pretraining, step=step)
        if flags.player == "bank" and "bank" not in self.state.players:
            raise UserError(
                "--player: expected a run with a bank, got "
                f"{self.pretraining.method.name} with the players "
                f"{', '.join(self.state.players)}; try a run of AdCo or CaCo"
            )
        with as_user_error("--batch_size"):
            self.batch = snapshots.draw_batch(
                self.pretraining,
                size=flags.batch_size,
                seed=flags.seed,
                dtype=self.dtype,
            )
        self.params = snapshots.cast(self.state.players["encoder"], self.dtype)
        self.encode = snapshots.make_embed(
            self.pretraining.encoder, self.state.stats, dtype=self.dtype
        )

    def embed(self, params: Any) -> tuple[jax.Array, jax.Array]:
        """Embeddings of the first and the second view."""
        first, second, *_ = self.batch.views
        return self.encode(params, first), self.encode(params, second)


def identity(subject: Subject, *, x64: bool) -> dict[str, Any]:
    """Errors of the gradient identity, printed and drawn."""
    families = {name: make() for name, make in losses.FAMILIES.items()}
    errors = alpha_game.identity_errors(subject.embed, subject.params, families)
    worst, member, layer = max(
        (error, member, layer)
        for member, layers in errors.items()
        for layer, error in layers.items()
    )
    plots_alpha.plot_identity(
        errors, figure(subject, "alpha_identity"), tolerance=TOLERANCES[x64]
    )
    print(
        f"identity: {len(errors)} members, {len(errors[member])} layers, largest "
        f"relative error {worst:.1e} ({member}, {layer}); tolerance "
        f"{TOLERANCES[x64]:g}"
    )
    return {"largest": worst, "tolerance": TOLERANCES[x64], "errors": errors}


def figure(subject: Subject, name: str) -> Any:
    """Path of a figure."""
    return subject.files.path / "analysis" / f"{name}.png"


def weights(
    subject: Subject, z1: jax.Array, z2: jax.Array, temperatures: list[float]
) -> dict[str, Any]:
    """The weights of every importance, printed and drawn."""
    labels = subject.batch.labels
    squared = importance.squared_distances(z1)
    weighings = list(importance.weigh_pairs(z1, z2, temperatures=temperatures))
    found = [
        importance.summarise_importance(weighing.alpha, squared, labels)
        for weighing in weighings
    ]
    chance = importance.chance_of_same_class(labels)
    usual = middle(temperatures)
    plots_alpha.plot_shapes(
        shape_curves(weighings, found, squared, temperature=usual),
        figure(subject, "alpha_shapes"),
        chance=chance,
        negatives=len(z1) - 1,
        temperature=usual,
    )
    chosen = [
        (min(temperatures), "exponential"),
        *((usual, name) for name in ("exponential", "inverse", "quadratic")),
    ]
    alphas = {(w.temperature, w.name): np.asarray(w.alpha) for w in weighings}
    plots_alpha.plot_importance_maps(
        {f"{name}, τ {t:g}": alphas[t, name] for t, name in chosen},
        labels,
        figure(subject, "alpha_maps"),
        class_names=subject.pretraining.data.class_names,
    )
    return weight_table(weighings, found, chance, negatives=len(z1) - 1)


def shape_curves(
    weighings: list[Weighing],
    found: list[ImportanceSummary],
    squared: jax.Array,
    *,
    temperature: float,
) -> dict[str, ShapeCurves]:
    """Curves for the figure of the importance shapes that have a temperature."""
    curves = {}
    for name in importance.SHAPES:
        rows = [
            (w.temperature, f)
            for w, f in zip(weighings, found, strict=True)
            if w.name == name and not math.isnan(w.temperature)
        ]
        for w in weighings:
            if (w.name, w.temperature) == (name, temperature):
                curves[name] = ShapeCurves(
                    *importance.weight_by_distance(w.alpha, squared),
                    temperatures=[t for t, _ in rows],
                    same_class=[f.same_class_share for _, f in rows],
                    effective=[f.effective_negatives for _, f in rows],
                )
    return curves


def weight_table(
    weighings: list[Weighing],
    found: list[ImportanceSummary],
    chance: float,
    *,
    negatives: int,
) -> dict[str, Any]:
    """The table of all weights, printed."""
    print(
        f"{'importance':26}{'temperature':>12}{'same class':>12}{'hardest 1 %':>13}"
        f"{'effective':>11}"
    )
    for weighing, row in zip(weighings, found, strict=True):
        print(
            f"{weighing.name:26}{_number(weighing.temperature, 'g'):>12}"
            f"{_number(row.same_class_share, '.1%'):>12}"
            f"{row.hardest_share:13.1%}{row.effective_negatives:11.1f}"
        )
    print(
        f"{'a pair at random':38}{_number(chance, '.1%'):>12}{0.01:13.1%}"
        f"{negatives:11.1f}"
    )
    rows = [
        {"name": weighing.name, "temperature": weighing.temperature, **row._asdict()}
        for weighing, row in zip(weighings, found, strict=True)
    ]
    return {
        "chance_of_same_class": _known(chance),
        "rows": [{key: _known(value) for key, value in row.items()} for row in rows],
    }


def _known(value: Any) -> Any:
    """None for NaN, which JSON does not have."""
    return None if value != value else value


def middle(temperatures: list[float]) -> float:
    """The median temperature, for figures that show one temperature only."""
    return sorted(temperatures)[len(temperatures) // 2]


def _number(value: float, how: str) -> str:
    return "-" if math.isnan(value) else format(value, how)


def turns(subject: Subject, flags: Any) -> dict[str, Any]:
    """Plays the alternating game from a new encoder, and draws the losses."""
    params = snapshots.cast(subject.pretraining.new_network().params, subject.dtype)
    family = losses.FAMILIES["info_nce"](temperature=middle(flags.temperatures))
    curves = {}
    for turn in (None, *flags.turns):
        name = "joint descent" if turn is None else f"α answers every {turn}"
        curves[name] = alpha_game.descend_in_turns(
            subject.embed,
            params,
            family,
            rate=flags.rate,
            steps=flags.steps,
            turn=turn,
        )
        print(
            f"{name}: InfoNCE per image {curves[name][0]:.4f} -> "
            f"{curves[name][-1]:.4f} in {flags.steps} moves"
        )
    if 1 in flags.turns:
        print("every 1 is joint descent, but for rounding, which the network amplifies")
    plots_alpha.plot_turns(curves, figure(subject, "alpha_turns"))
    return {name: curve.tolist() for name, curve in curves.items()}


def bank_as_pairs(subject: Subject, z1: jax.Array, z2: jax.Array) -> dict[str, Any]:
    """Gradients of the bank's entries, analysed as pairs, printed and drawn."""
    rows = snapshots.cast(subject.state.players["bank"], subject.dtype)
    config: Any = subject.pretraining.method.settings
    cooperative = isinstance(config, CacoConfig)
    moves = bank.bank_moves(
        z1,
        rows,
        temperature=config.bank_temperature,
        positives=losses.nearest_entries(z2, rows) if cooperative else None,
        keys=None if cooperative else z2,
    )
    plots_alpha.plot_bank_pairs(moves, figure(subject, "alpha_bank"))
    found = bank.summarise_moves(moves)
    print(
        f"bank: importance of {found.effective_entries:.0f} entries out of "
        f"{found.entries}; norm of the move: {found.cooperative_norm:.2e} cooperative, "
        f"{found.adversarial_norm:.2e} adversarial"
    )
    return found._asdict()


def check_flags(flags: Any) -> None:
    """Refuses impossible numbers before anything is compiled."""
    with as_user_error("--temperatures"):
        for temperature in flags.temperatures:
            checks.check_positive(temperature=temperature)
    for name in ("steps", "turns"):
        given = getattr(flags, name)
        if min(given if isinstance(given, list) else [given]) < 1:
            raise UserError(f"--{name}: expected at least 1, got {given}")


def analyse(flags: Any) -> dict[str, Any]:
    """All measurements, printed, drawn and saved."""
    with jax.enable_x64(flags.x64):
        subject = Subject(flags)
        (subject.files.path / "analysis").mkdir(exist_ok=True)
        with as_user_error(
            "--batch_size"
        ):  # the batch size may not be a multiple of a BatchNorm group
            z1, z2 = jax.jit(subject.embed)(subject.params)
        result: dict[str, Any] = {
            "step": int(subject.state.step),
            "batch_size": len(z1),
            "x64": flags.x64,
            "identity": identity(subject, x64=flags.x64),
            "importance": weights(subject, z1, z2, flags.temperatures),
            "turns": turns(subject, flags),
        }
        if "bank" in subject.state.players and flags.player != "none":
            result["bank"] = bank_as_pairs(subject, z1, z2)
    write_json(subject.files.path / "analysis" / "alpha_gradients.json", result)
    return result


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("alpha_gradients").parse_args()
    check_flags(flags)
    with aside(flags):
        result = analyse(flags)
    print_json(flags, result)
