"""Evaluation of frozen features.

`make_features` and `extract_features` compute features; `knn_accuracy`,
`fit_logistic_regression` and `few_shot_accuracy` evaluate them, one protocol a file;
`evaluate_features` makes one table of the three.
"""

from typing import TYPE_CHECKING

from caco_jax._lazy import attach

if TYPE_CHECKING:
    from caco_jax.evaluation.features import extract_features, make_features
    from caco_jax.evaluation.few_shot import few_shot_accuracy
    from caco_jax.evaluation.health import alignment, effective_rank, uniformity
    from caco_jax.evaluation.knn import knn_accuracy, knn_predict
    from caco_jax.evaluation.linear import fit_logistic_regression
    from caco_jax.evaluation.summary import evaluate_features

__all__ = [
    "alignment",
    "effective_rank",
    "evaluate_features",
    "extract_features",
    "few_shot_accuracy",
    "fit_logistic_regression",
    "knn_accuracy",
    "knn_predict",
    "make_features",
    "uniformity",
]

_HOMES = {
    "features": ("extract_features", "make_features"),
    "few_shot": ("few_shot_accuracy",),
    "health": ("alignment", "effective_rank", "uniformity"),
    "knn": ("knn_accuracy", "knn_predict"),
    "linear": ("fit_logistic_regression",),
    "summary": ("evaluate_features",),
}

# Imported on first use: the flags of a command need no JAX.
__getattr__ = attach(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
