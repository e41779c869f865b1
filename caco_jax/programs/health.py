"""Diagnosis of representation collapse: caco health --workdir=...

On held-out images (or training images, if none are held out), without labels, it
measures RankMe, spread and uniformity of the backbone's features, the similarity of two
views of an image and, if the run has a bank, the similarity of queries to its entries.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from caco_jax.data.labelled import Part
from caco_jax.data.views import make_views
from caco_jax.evaluation import health
from caco_jax.programs.command import as_user_error
from caco_jax.programs.evaluating import finish, open_run, unseen_part
from caco_jax.programs.flags import parser_of
from caco_jax.runs.run import Run
from caco_jax.schema import require

BATCH_ROWS = 128


def measure(loaded: Run, part: Part, *, rows: int, seed: int) -> dict[str, float]:
    """The measurements on a sample of the images, by name."""
    pretraining, network = loaded.pretraining, loaded.network
    views = make_views(pretraining.views)

    @jax.jit
    def encode(key: jax.Array, pixels: Any) -> tuple[Any, Any, Any]:
        first, second, *_ = views(key, pixels)
        encoder = pretraining.encoder
        return (
            encoder.features(network, first)[0],
            encoder.features(network, second)[0],
            encoder.embed(network, first, train=False)[0],
        )

    count = min(rows, len(part))
    if count > BATCH_ROWS:
        count -= count % BATCH_ROWS  # one compiled shape
    chosen = np.linspace(0, len(part) - 1, count).round().astype(int)
    found = []
    for number, (pixels, _) in enumerate(part.centers(chosen)):
        for first in range(0, len(pixels), BATCH_ROWS):
            key = jax.random.fold_in(jax.random.key(seed), number * len(chosen) + first)
            found.append(encode(key, pixels[first : first + BATCH_ROWS]))
    one, other, embeddings = (
        jnp.concatenate(pieces) for pieces in zip(*found, strict=True)
    )
    with as_user_error(f"--workdir: of {loaded.data.name}"):
        figures = {
            "images": len(one),
            "features": one.shape[1],
            "effective_rank": health.effective_rank(one),
            "deviation": health.feature_deviation(one),
            "uniformity": health.uniformity(one),
            "alignment": health.alignment(one, other),
        }
        bank = loaded.state.players.get(pretraining.method.memory or "")
        if bank is not None:
            cosine, nearest = health.nearest_cosine(embeddings, bank)
            uses = jnp.bincount(jnp.asarray(nearest), length=len(bank))
            figures["bank_nearest_cosine"] = cosine
            figures["bank_use_entropy"] = health.use_entropy(uses)
    return figures


LINES = {
    "effective_rank": "effective rank (RankMe), of at most {most}",
    "deviation": "deviation of unit features; 1: whole sphere, 0: collapsed",
    "uniformity": "uniformity; lower is better, 0: collapsed",
    "alignment": "alignment of two views, squared distance; 0: identical",
    "bank_nearest_cosine": "cosine similarity of a query to its nearest entry",
    "bank_use_entropy": "entropy of the use of entries; 1: all equally used",
}


def main() -> None:
    """Parses flags and runs."""
    flags = parser_of("health").parse_args()
    require(flags.images >= 2, f"--images: expected at least 2, got {flags.images}")
    loaded = open_run(flags, by_class=False)
    part, called = unseen_part(loaded)
    figures = measure(loaded, part, rows=flags.images, seed=flags.seed)
    most = min(figures["images"], figures["features"])
    lines = [f"{figures['images']} {called} images, views as in pretraining:"]
    lines += [
        f"{figures[name]:10.3f}  {line.format(most=most)}"
        for name, line in LINES.items()
        if name in figures
    ]
    finish(loaded, flags, "health", figures, lines)
