"""Section 9: the votes of the nearest neighbours."""

import jax.numpy as jnp
import numpy as np

from caco_jax.evaluation import knn


def _knn(case: dict, dtype: type) -> dict:
    features = jnp.asarray(case["in_feature"], dtype)
    bank = jnp.asarray(case["in_feature_bank"], dtype)
    classes = int(case["hp_classes"])
    settings = [
        (int(k), None if np.isnan(t) else float(t))
        for k, t in zip(case["hp_k"], case["hp_t"], strict=True)
    ]
    scores, winners = [], []
    for k, temperature in settings:
        arguments = (features, bank, case["in_bank_labels"])
        setting: dict = {"num_classes": classes, "k": k, "temperature": temperature}
        scores.append(np.asarray(knn.knn_votes(*arguments, **setting)))
        winners.append(np.asarray(knn.knn_predict(*arguments, **setting)))
    accuracies = knn.knn_accuracy(
        features,
        case["in_test_labels"],
        bank,
        case["in_bank_labels"],
        num_classes=classes,
        settings=settings,
    )
    return {
        "out_scores": np.stack(scores),
        "out_pred": np.stack(winners),
        "out_ranking": np.argsort(-np.stack(scores), axis=-1, kind="stable"),
        "out_top1_percent": 100 * np.asarray(accuracies),
    }


CASES = {"knn": _knn}
