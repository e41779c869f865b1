"""The bank games as loops in NumPy: every score by itself, nothing streamed."""

import numpy as np


def unit(rows):
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def nearest(keys, bank):
    """Index of the largest cosine, the first of several."""
    entries = unit(bank)
    found = []
    for key in keys:
        best = 0
        for j, entry in enumerate(entries):
            if key @ entry > key @ entries[best]:
                best = j
        found.append(best)
    return np.array(found)


def caco(queries, positives, bank, temperature, bank_temperature, **how):
    """Loss, descent, ascent and aux of CaCo; `how` as in `_game`."""
    temperatures = temperature, bank_temperature
    return _game(queries, unit(bank), 0, positives, bank, *temperatures, **how)


def adco(queries, keys, bank, temperature, bank_temperature, **how):
    """Loss, descent, ascent and aux of AdCo; `how` as in `_game`."""
    candidates = np.concatenate([keys, unit(bank)])
    labels = np.arange(len(keys))
    temperatures = temperature, bank_temperature
    return _game(queries, candidates, len(keys), labels, bank, *temperatures, **how)


def adco_without_batch_keys(queries, keys, bank, *temperatures):
    """The same where each query meets its own key alone: a game of each by itself."""
    n = len(queries)
    games = [
        adco(queries[i : i + 1], keys[i : i + 1], bank, *temperatures) for i in range(n)
    ]
    losses, descents, ascents, aux = zip(*games, strict=True)
    joined = {name: np.concatenate([one[name] for one in aux]) for name in aux[0]}
    return np.mean(losses), np.concatenate(descents) / n, sum(ascents) / n, joined


def _softmax(scores):
    weights = np.exp(scores - max(scores))
    return weights / sum(weights)


def _game(
    queries,
    candidates,
    num_keys,
    labels,
    bank,
    temperature,
    bank_temperature,
    *,
    movers=None,
    roles=("positive", "negative"),
):
    """`movers` pull the bank for the queries; it is pulled in these roles only."""
    n = len(queries)
    movers = queries if movers is None else movers
    loss, descent, ascent = 0.0, np.zeros_like(queries), np.zeros_like(bank)
    aux = {
        "positive_probability": np.zeros(n),
        "encoder_positive_probability": np.zeros(n),
        "positive_rank": np.zeros(n, int),
        "batch_probability": np.zeros(n),
    }
    for i, (query, label) in enumerate(zip(queries, labels, strict=True)):
        cosines = np.array([query @ candidate for candidate in candidates])
        p = _softmax(cosines / temperature)
        loss -= np.log(p[label]) / n
        for j, candidate in enumerate(candidates):
            descent[i] += (p[j] - (j == label)) * candidate / (n * temperature)

        p_bank = _softmax(cosines / bank_temperature)
        for j, row in enumerate(bank):
            length = np.linalg.norm(row)
            if length == 0:
                continue
            at = num_keys + j
            if ("positive" if at == label else "negative") not in roles:
                continue
            weight = 1 - p_bank[at] if at == label else p_bank[at]
            direction = row / length
            projected = movers[i] - movers[i] @ direction * direction
            ascent[j] += weight * projected / (n * bank_temperature * length)

        aux["positive_probability"][i] = p_bank[label]
        aux["encoder_positive_probability"][i] = p[label]
        aux["positive_rank"][i] = sum(
            score > cosines[label] for j, score in enumerate(cosines) if j != label
        )
        aux["batch_probability"][i] = sum(p_bank[:num_keys])
    return loss, descent, ascent, aux
