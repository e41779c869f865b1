"""Linear probe of a run: caco probe --workdir=...

--protocol=lbfgs computes the features once and fits a multinomial logistic regression
to convergence; the penalty is chosen on a held-out part of the training images.
--protocol=imagenet trains by SGD or LARC on augmented images, or by Adam on clean
features (--preset=clae), as in the papers. Several learning rates and weight decays
train together; the best is chosen on training images that no head has seen.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from caco_jax.evaluation import linear, multilabel, sweep
from caco_jax.evaluation.plans import HELD_OUT, PRESETS, Protocol
from caco_jax.evaluation.scores import (
    LEVEL,
    accuracies,
    average_precision,
    bootstrap_interval,
    mean_average_precision,
)
from caco_jax.programs import evaluating
from caco_jax.programs.flags import parser_of
from caco_jax.runs.run import Run
from caco_jax.schema import ConfigError

Say = Callable[[str], None]  # printed after the results are saved
SWEPT = ("learning_rates", "weight_decays", "batch_size", "epochs")
PRECISION_DRAWS = 200  # of the bootstrap; each one sorts all images for all classes


def parse_flags() -> argparse.Namespace:
    """The command's flags."""
    flags = parser_of("linear_probe").parse_args()
    ignored = {
        "lbfgs": ("preset", "held_out", *SWEPT),
        "imagenet": ("l2", "label_feature"),
    }
    other = {"lbfgs": "imagenet", "imagenet": "lbfgs"}[flags.protocol]
    evaluating.check_flags(
        flags, dict.fromkeys(ignored[flags.protocol]), f"--protocol={other}"
    )
    return flags


def by_lbfgs(loaded: Run, flags: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Logistic regression on features that are computed once."""
    train, test = evaluating.run_features(loaded)
    num_classes = loaded.data.num_classes
    l2, choice = flags.l2, None
    with evaluating.as_user_error("--l2"):
        if l2 is None:
            choice = linear.choose_l2(*train, num_classes=num_classes, seed=flags.seed)
            l2 = choice.l2
        model = linear.fit_logistic_regression(*train, num_classes=num_classes, l2=l2)
    scores = linear.scores(model, test.features)
    found = accuracies(np.asarray(scores), np.asarray(test.labels))
    seen = linear.accuracy(model, *train)
    how = f"L2 {l2:g}"
    if choice is not None:
        how += f", the best of {len(choice.accuracies)} on held-out training images"
    say(f"Linear probe: {evaluating.summary(found, len(test.labels))}")
    say(f"{how}; {seen:.2%} of the training images")
    result = {"l2": l2, "held_out": grid_figures(choice), "train_accuracy": seen}
    return result | evaluating.figures(loaded, found)


def by_precision(loaded: Run, flags: argparse.Namespace, say: Say) -> dict[str, Any]:
    """One logistic regression for each class, for multi-label images."""
    with evaluating.as_user_error("--label_feature"):
        images = multilabel.multilabel_set(loaded.data, flags.label_feature)
    loaded = loaded._replace(data=images)
    train, test = evaluating.run_features(loaded)
    l2, choice = flags.l2, None
    with evaluating.as_user_error("--l2"):
        if l2 is None:
            choice = multilabel.choose_l2(*train, seed=flags.seed)
            l2 = choice.l2
        model = multilabel.fit_independent(*train, l2=l2)
    found = np.asarray(linear.scores(model, test.features))
    relevant = np.asarray(test.labels).astype(bool)
    area = mean_average_precision(found, relevant)
    points = mean_average_precision(found, relevant, eleven_points=True)
    low, high = bootstrap_interval(
        lambda rows: mean_average_precision(found[rows], relevant[rows]),
        len(found),
        draws=PRECISION_DRAWS,
    )
    say(
        f"Linear probe: mAP {area:.2%} of {len(found)} held-out images "
        f"({LEVEL:.0%} interval {low:.2%} to {high:.2%}), at 11 points {points:.2%}"
    )
    say(f"L2 {l2:g}")
    by_class = {
        name: average_precision(scores, wanted) if wanted.any() else None
        for name, scores, wanted in zip(
            images.class_names, found.T, relevant.T, strict=True
        )
    }
    return {
        "l2": l2,
        "held_out": grid_figures(choice),
        "mean_average_precision": area,
        "mean_average_precision_11_points": points,
        "interval": (low, high),
        "by_class": by_class,
    }


def grid_figures(choice: linear.L2Choice | None) -> dict[str, float] | None:
    """The validation score of each penalty."""
    if choice is None:
        return None
    return {f"{tried:g}": share for tried, share in choice.accuracies.items()}


def read_protocol(flags: argparse.Namespace) -> Protocol:
    """The preset with the values of the flags."""
    named = {name: getattr(flags, name) for name in SWEPT}
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in named.items()
        if value is not None
    }
    try:
        return dataclasses.replace(PRESETS[flags.preset or "caco"], **changes)
    except ConfigError as error:
        raise error.renamed("--{}".format) from None


def by_sweep(loaded: Run, flags: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Linear heads that train together, by the protocol of a preset."""
    protocol = read_protocol(flags)
    train, test = evaluating.run_parts(loaded)
    frozen = evaluating.frozen_network(loaded)
    with evaluating.as_user_error("--held_out"), jax.set_mesh(loaded.pretraining.mesh):
        swept = sweep.sweep_heads(
            frozen,
            train,
            protocol,
            num_classes=loaded.data.num_classes,
            held_out=HELD_OUT if flags.held_out is None else flags.held_out,
            seed=flags.seed,
            put=evaluating.put_batch(loaded),
        )
    everything = np.arange(len(test))
    scores, labels = sweep.collect_scores(
        swept.best, sweep.part_features(frozen, test, everything)
    )
    found = accuracies(scores, labels)
    best = swept.settings[swept.chosen]
    rows = [
        {
            **setting._asdict(),
            "held_out": None if swept.held_out is None else float(swept.held_out[i]),
        }
        for i, setting in enumerate(swept.settings)
    ]
    say(f"Linear probe: {evaluating.summary(found, len(labels))}")
    say(
        f"{protocol.optimizer}, learning rate {best.learning_rate:g}, "
        f"weight decay {best.weight_decay:g}"
    )
    if len(rows) > 1:
        say(f"{'learning rate':>13}{'weight decay':>14}{'held out':>10}")
        for i, row in enumerate(rows):
            mark = "  chosen" if i == swept.chosen else ""
            say(
                f"{row['learning_rate']:13g}{row['weight_decay']:14g}"
                f"{row['held_out']:10.2%}{mark}"
            )
    asked = dataclasses.asdict(protocol) | {"preset": flags.preset or "caco"}
    chosen = {"chosen": best._asdict(), "heads": rows, "protocol_settings": asked}
    return chosen | evaluating.figures(loaded, found)


def main() -> None:
    """Parses flags and runs."""
    flags = parse_flags()
    loaded = evaluating.open_run(flags)
    by = {"lbfgs": by_lbfgs, "imagenet": by_sweep}[flags.protocol]
    if flags.label_feature is not None:
        by = by_precision
    name = {"lbfgs": "linear_probe", "imagenet": "linear_probe_imagenet"}
    lines: list[str] = []
    result = {"protocol": flags.protocol, **by(loaded, flags, lines.append)}
    evaluating.finish(loaded, flags, name[flags.protocol], result, lines)
