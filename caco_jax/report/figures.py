"""Embedding map, bank entries, pair weights and views of a report, as JSON values."""

import base64
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from caco_jax.analysis import bank, importance, plots, snapshots
from caco_jax.analysis.snapshots import Memory
from caco_jax.data.dataset import ArrayDataset, RecordDataset
from caco_jax.data.views import make_views
from caco_jax.evaluation.features import extract_features, make_features
from caco_jax.losses import l2_normalize, nearest_entries, row_normalised
from caco_jax.losses.alpha_cl import Importance
from caco_jax.losses.contrast import similarities
from caco_jax.methods.alpha_cl import INFO_NCE, AlphaClConfig
from caco_jax.methods.alpha_cl import importance as importance_of
from caco_jax.methods.bank_use import RECENT_STEPS
from caco_jax.methods.caco import CacoConfig
from caco_jax.methods.method import Network
from caco_jax.report.sample import Sample, are_pictures, sheet, to_bytes
from caco_jax.runs.pretraining import Pretraining
from caco_jax.runs.run import Run
from caco_jax.schema import UserError

PAIRS = 128  # images of the heat-map
VIEWED = 12  # images whose views are shown
ENTRIES = 1024  # of the bank, on the page
DENSE_ENTRIES = 16_384  # that queries are scored against
LISTED = 12  # images of an entry
MAPPED = 8  # images of a map, at least
_BATCH_ROWS = 64


class Encoded(NamedTuple):
    """Unit embeddings of two views of some images, in the order of the images.

    Attributes:
        queries: [N, D] the online encoder's, of the first view.
        keys: [N, D] the target encoder's, or the online one's, of the second.
    """

    queries: Float[Array, "n d"]
    keys: Float[Array, "n d"]


def encode(run: Run, sample: Sample) -> Encoded | None:
    """Encodes two views of each image with the networks of the run.

    None where an embedding is not finite: the run has diverged.
    """
    pretraining = run.pretraining
    views = make_views(pretraining.views)
    networks = (run.network, run.state.target or run.network)

    @jax.jit
    def both(networks: Any, key: Array, pixels: Array) -> tuple[Array, ...]:
        def embed(network: Network, view: Array) -> Array:
            rows, _ = pretraining.encoder.embed(network, view, train=False)
            return jnp.asarray(rows, jnp.float32)

        return tuple(map(embed, networks, views(key, pixels)[:2]))

    found = []
    for first in range(0, len(sample.pixels), _BATCH_ROWS):
        pixels = sample.pixels[first : first + _BATCH_ROWS]
        padding = [(0, _BATCH_ROWS - len(pixels))] + [(0, 0)] * (pixels.ndim - 1)
        key = jax.random.fold_in(pretraining.keys.steps, first)
        rows = both(networks, key, jnp.asarray(np.pad(pixels, padding)))
        found.append([np.asarray(part)[: len(pixels)] for part in rows])
    parts = [np.concatenate(part) for part in zip(*found, strict=True)]
    if not np.isfinite(parts).all():
        return None
    return Encoded(*(l2_normalize(jnp.asarray(part)) for part in parts))


def embedding_map(run: Run, sample: Sample) -> dict[str, Any] | None:
    """Embedding of backbone features in two dimensions by t-SNE: "points" [N, 2].

    None where they are too few for a map.
    """
    if len(sample.pixels) < MAPPED:
        return None
    compute = make_features(run.pretraining.encoder, run.pretraining.evaluation_input())
    features = extract_features(
        compute, run.network, sample.pixels, batch_size=_BATCH_ROWS
    )
    flat = plots.flatten_features(np.asarray(features, np.float32))
    flat = (flat - flat.min(axis=0)) / np.maximum(np.ptp(flat, axis=0), 1e-9)
    return {
        "points": flat.round(4).tolist(),
        "labels": sample.labels.tolist(),
        "sheet": sheet(sample.pixels),
    }


def pair_weights(run: Run, sample: Sample, encoded: Encoded) -> dict[str, Any] | None:
    """Pair weights of images sorted by class, as an image of their logarithms.

    None where the method says nothing of a temperature.
    """
    chosen_importance = _importance(run.pretraining)
    if chosen_importance is None:
        return None
    importance_fn, name = chosen_importance
    rows = np.linspace(0, len(sample.labels) - 1, min(PAIRS, len(sample.labels)))
    chosen = rows.round().astype(int)
    labels = sample.labels[chosen]
    queries = encoded.queries[chosen]
    if labels.min() < 0:  # no classes: neighbours side by side
        order = np.argsort(_leading_direction(np.asarray(queries)), kind="stable")
    else:
        order = np.argsort(labels, kind="stable")
    chosen, labels, queries = chosen[order], labels[order], queries[order]
    alpha = importance.pair_weights(queries, importance_fn)
    known = None if labels.min() < 0 else labels
    summary = importance.summarise_importance(
        alpha, importance.squared_distances(queries), known
    )
    same, chance = summary.same_class_share, importance.chance_of_same_class(known)
    return {
        "name": name,
        "images": chosen.tolist(),
        "labels": labels.tolist(),
        **_logarithms(np.asarray(alpha)),
        "same_class_share": None if math.isnan(same) else same,
        "chance": None if math.isnan(chance) else chance,
        "effective_negatives": summary.effective_negatives,
    }


def _importance(pretraining: Pretraining) -> tuple[Importance, str] | None:
    config: Any = pretraining.method.settings
    if isinstance(config, AlphaClConfig) and (config.importance != INFO_NCE):
        return importance_of(config), f"this run's {config.importance} weights"
    temperature = getattr(config, "temperature", None)
    if temperature is None:
        return None
    shape = importance.SHAPES["exponential"](temperature)
    return row_normalised(shape), f"exp(−d²/τ) at this run's τ = {temperature:g}"


def _leading_direction(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    left, _, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return left[:, 0]


def _logarithms(alpha: Float[np.ndarray, "n n"]) -> dict[str, Any]:
    """Maps weights to bytes on a logarithmic scale from `low` (0) to `high` (255)."""
    positive = alpha[alpha > 0]
    high = float(positive.max())
    low = max(float(positive.min()), high * 1e-4)
    scale = math.log(high / low) or 1.0
    levels = np.log(np.maximum(alpha, low) / low) / scale
    levels = (levels.clip(0, 1) * 255).round().astype(np.uint8)
    return {
        "low": low,
        "high": high,
        "bytes": base64.b64encode(levels.tobytes()).decode(),
    }


def bank_entries(
    run: Run,
    sample: Sample,
    encoded: Encoded,
    *,
    most: int = ENTRIES,
    dense: int = DENSE_ENTRIES,
) -> dict[str, Any] | None:
    """The entries of the bank or queue, most used first; None without a bank or queue.

    An image chooses the entry that its key is nearest to, as CaCo chooses positives.
    "even" is how many entries would be chosen, were all chosen with the same
    probability.

    Args:
        run: the run.
        sample: images.
        encoded: their embeddings.
        most: entries that are described, no fewer than images.
        dense: entries that queries are scored against, at most.
    """
    state = jax.device_get(run.state)
    try:
        memory = snapshots.memory(run.pretraining, state)
    except UserError:
        return None
    nearest = np.asarray(nearest_entries(encoded.keys, memory.rows))
    size = len(memory.rows)
    uses = np.bincount(nearest, minlength=size)
    scored = _scored(uses, most=most, dense=dense)
    shown = scored[:most]
    places = np.full(size, -1)
    places[scored] = np.arange(len(scored))
    weights = _repelled(
        run.pretraining,
        encoded,
        memory._replace(rows=memory.rows[scored]),
        places[nearest],
    )
    rows = l2_normalize(memory.rows[shown])
    cosines = np.asarray(similarities(encoded.queries, rows))
    return {
        "name": memory.name,
        "chooses": isinstance(run.pretraining.method.settings, CacoConfig),
        "size": size,
        "unused": int((uses == 0).sum()),
        "even": size * (1 - (1 - 1 / size) ** len(nearest)),
        "recent_steps": RECENT_STEPS,
        "images": len(nearest),
        "scored": len(scored),
        "entries": [
            _entry(
                int(entry),
                nearest,
                cosines[:, at],
                None if weights is None else weights[:, at],
            )
            for at, entry in enumerate(shown)
        ],
    }


def _scored(
    uses: Int[np.ndarray, " k"], *, most: int, dense: int
) -> Int[np.ndarray, " s"]:
    """Chooses the entries to score: the most used ones, then others evenly spread.

    All that are used are among the first, for there are no more images than those.
    """
    order = np.argsort(-uses, kind="stable")
    first, others = order[:most], order[most:]
    count = min(len(others), dense - len(first))
    spread = np.linspace(0, len(others) - 1, count).round().astype(int)
    return np.concatenate([first, others[spread]])


def _repelled(
    pretraining: Pretraining,
    encoded: Encoded,
    memory: Memory,
    positives: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "n k"] | None:
    """Softmax probability of each entry as a negative of each query.

    None where the method says nothing of a temperature.
    """
    config: Any = pretraining.method.settings
    temperature = getattr(config, "temperature", None)
    temperature = getattr(config, "bank_temperature", temperature)
    if temperature is None:
        return None
    if memory.ages is not None:  # past keys, which nobody moves
        return np.asarray(
            bank.entry_probabilities(
                encoded.queries,
                memory.rows,
                temperature=temperature,
                keys=encoded.keys if getattr(config, "batch_keys", False) else None,
            )
        )
    cooperative = isinstance(config, CacoConfig)
    moves = bank.bank_moves(
        encoded.queries,
        memory.rows,
        temperature=temperature,
        positives=jnp.asarray(positives) if cooperative else None,
        keys=None if cooperative else encoded.keys,
        batch_keys=getattr(config, "batch_keys", True),
    )
    return np.asarray(moves.adversarial.weights)


def _entry(
    entry: int,
    nearest: Int[np.ndarray, " n"],
    cosines: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | None,
) -> dict[str, Any]:
    """One entry with the queries that chose it and those that it repels most."""
    chose = np.flatnonzero(nearest == entry)
    chose = chose[np.argsort(-cosines[chose], kind="stable")]
    repels = []
    if weights is not None:
        most = np.argsort(-weights, kind="stable")[:LISTED]
        repels = [[int(i), float(f"{weights[i]:.2g}")] for i in most if weights[i] > 0]
    return {
        "entry": entry,
        "uses": len(chose),
        "picture": int(cosines.argmax()),
        "cosine": round(float(cosines.max()), 3),
        "chose": chose[:LISTED].tolist(),
        "repels": repels,
    }


def seen_views(run: Run) -> dict[str, Any] | None:
    """The augmented views of some images of the newest training step.

    Returns:
        None where examples or views are no images; else "step"; "sheets": of each view;
        "originals": the images, None where the host made crops of them.
    """
    pretraining, data = run.pretraining, run.pretraining.data
    if isinstance(data, ArrayDataset) and not are_pictures(data.train_examples):
        return None
    if isinstance(data, RecordDataset):
        # Threads give the same pixels as processes, and start at once.
        pretraining = pretraining.replace(data=dataclasses.replace(data, workers=0))
    step = max(int(run.state.step) - 1, 0)
    with pretraining.feeds()(
        pretraining.keys.order,
        steps=pretraining.steps_per_epoch,
        epochs=step // pretraining.steps_per_epoch + 1,
        first_step=step,
    ) as feed:
        _, dispatches = next(feed.epochs)
        chosen = jax.device_get(next(dispatches))
    pixels, originals = _first_images(pretraining, chosen)
    key = jax.random.fold_in(pretraining.keys.steps, step)
    views = jax.jit(make_views(pretraining.views))(key, pixels)
    sheets = [sheet(to_bytes(view, pretraining.views)) for view in views]
    if None in sheets:
        return None
    return {
        "step": step + 1,
        "sheets": sheets,
        "originals": None if originals is None else sheet(originals),
    }


def _first_images(pretraining: Pretraining, chosen: Any) -> tuple[Any, Any]:
    """The first images of a dispatch as input of the views, and as bytes or None."""
    images = pretraining.data
    if isinstance(images, ArrayDataset):
        pixels = images.train_examples[chosen[0][:VIEWED]]
        return jnp.asarray(pixels), pixels
    return tuple(jnp.asarray(crops[0][:VIEWED]) for crops in chosen), None
