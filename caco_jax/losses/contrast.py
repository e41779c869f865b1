"""Contrastive losses without an extra player: InfoNCE, MoCo, NT-Xent, Plain, UEL."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from caco_jax.losses import checks

HIGHEST = "highest"
# Of products, the most exact first. TPUs: float32, three passes in bfloat16, one pass.
# NVIDIA: float32, TF32, TF32. CPUs always multiply in float32.
PRECISIONS = (HIGHEST, "high", "default")


def l2_normalize(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    """Divides each vector along `axis` by its Euclidean length.

    A vector of zeros has no direction: it stays zero, and so do its gradients of
    every order. Vectors of any length in the range of the dtype are safe.

    Args:
        x: floats of any shape.
        axis: the axis that the vectors lie along.

    Returns:
        The unit vectors, in the shape and dtype of `x`.
    """
    wide = x.astype(accumulator(x))
    # The direction does not depend on a scale that is held constant, so this one
    # changes no gradient; it keeps the squares below from over- and underflowing.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis=axis, keepdims=True))
    some = scale >= jnp.finfo(wide.dtype).tiny
    scaled = jnp.where(some, wide, 1) / jnp.where(some, scale, 1)
    length = jnp.sqrt(jnp.sum(scaled * scaled, axis=axis, keepdims=True))
    return jnp.where(some, scaled / length, 0).astype(x.dtype)


def info_nce(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    negatives: Float[Array, "k d"],
    *,
    temperature: float,
    batch_keys: bool = False,
    precision: str = HIGHEST,
) -> Float[Array, " n"]:
    """InfoNCE of each query: its own key against explicit negatives.

    For query n over scores s = dot product / temperature:
    ``logsumexp([s(q_n, k_n), s(q_n, w_1), ..., s(q_n, w_K)]) - s(q_n, k_n)``.
    With `batch_keys` s(q_n, k_m) of all m are among the scores.

    Rows are used as given: normalise first, and stop the gradient of what must not
    move in the caller.

    Args:
        queries: [N, D] floats, unit rows.
        keys: [N, D] floats, unit rows; row n is the positive of query n.
        negatives: [K, D] floats, unit rows, shared by all queries.
        temperature: above 0, dimensionless.
        batch_keys: whether the other queries' keys are negatives too.
        precision: of the products, one of `PRECISIONS`.

    Returns:
        [N] losses in nats, at least float32; the caller averages.

    Raises:
        ValueError: the shapes do not fit together, temperature is not above 0, or the
            precision is unknown.
        TypeError: an array does not hold floats.

    References:
        van den Oord et al. 2018, arXiv:1807.03748; with explicit negatives, He et al.
        2020, arXiv:1911.05722, eq. 1.
    """
    checks.check_embeddings(queries=queries, keys=keys, negatives=negatives)
    checks.check_same_shape(queries=queries, keys=keys)
    checks.check_same_width(queries=queries, negatives=negatives)
    checks.check_positive(temperature=temperature)
    checks.check_choice(PRECISIONS, precision=precision)
    dtype = accumulator(queries, keys, negatives)
    positive = jnp.sum(queries.astype(dtype) * keys.astype(dtype), axis=1)  # [N]
    against = similarities(queries, negatives, precision)  # [N, K]
    if batch_keys:
        others = without_diagonal(similarities(queries, keys, precision))  # [N, N - 1]
        against = jnp.concatenate([others, against], axis=1)
    scale = jnp.asarray(temperature, dtype)
    return one_against(positive / scale, against / scale)


def moco_loss(
    queries: Float[Array, "n d"],
    keys: Float[Array, "n d"],
    queue: Float[Array, "k d"],
    *,
    temperature: float,
    batch_keys: bool = False,
    precision: str = HIGHEST,
) -> Float[Array, ""]:
    """MoCo: mean InfoNCE of the queries, with a queue of past keys as negatives.

    Only the queries receive a gradient: keys and queue come from the target encoder.

    Args:
        queries: [N, D] floats, unit rows.
        keys: [N, D] floats, unit rows; row n is the positive of query n.
        queue: [K, D] floats, unit rows.
        temperature: above 0, dimensionless.
        batch_keys: whether the other queries' keys are negatives too, as in AdCo.
        precision: of the products, one of `PRECISIONS`.

    Returns:
        The mean loss in nats, at least float32.

    Raises:
        ValueError: the shapes do not fit together, temperature is not above 0, or the
            precision is unknown.
        TypeError: an array does not hold floats.

    References:
        He et al. 2020, arXiv:1911.05722, eq. 1.
    """
    keys, queue = jax.lax.stop_gradient((keys, queue))
    losses = info_nce(
        queries,
        keys,
        queue,
        temperature=temperature,
        batch_keys=batch_keys,
        precision=precision,
    )
    return jnp.mean(losses)


def nt_xent(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], *, temperature: float
) -> Float[Array, ""]:
    """SimCLR's NT-Xent: the positive of a view is the other view of its image.

    Similarities are cosines: the rows may have any length, the loss normalises them.
    The gradient reaches both factors of every similarity.

    Args:
        z1: [N, D] floats, embeddings of the first views.
        z2: [N, D] floats, embeddings of the second views of the same images.
        temperature: above 0, dimensionless.

    Returns:
        The mean loss over the 2N views in nats, at least float32.

    Raises:
        ValueError: the shapes differ, there are fewer than two pairs, or temperature
            is not above 0.
        TypeError: an array does not hold floats.

    References:
        Chen et al. 2020, arXiv:2002.05709, eq. 1.
    """
    check_pairs(z1, z2, temperature=temperature)
    views = l2_normalize(stack_views(z1, z2))
    logits = similarities(views, views) / jnp.asarray(temperature, views.dtype)
    return jnp.mean(one_against(*split_pairs(logits)))


def plain_loss(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"], *, temperature: float
) -> Float[Array, ""]:
    """CLAE's Plain loss: InfoNCE of the first views over the second views of the batch.

    One direction only: rows are first views, candidates are the second views of the
    batch; no first view is a negative. Rows are used as given: normalise first.

    Args:
        z1: [N, D] floats, unit rows, first views.
        z2: [N, D] floats, unit rows, second views of the same images.
        temperature: above 0, dimensionless.

    Returns:
        The mean loss over the N first views in nats, at least float32.

    Raises:
        ValueError: the shapes differ, there are fewer than two pairs, or temperature
            is not above 0.
        TypeError: an array does not hold floats.

    References:
        Ho and Vasconcelos 2020, arXiv:2010.12050, "Plain".
    """
    check_pairs(z1, z2, temperature=temperature)
    logits = similarities(z1, z2)
    logits = logits / jnp.asarray(temperature, logits.dtype)
    return jnp.mean(one_against(jnp.diagonal(logits), without_diagonal(logits)))


def uel_loss(
    z1: Float[Array, "n d"],
    z2: Float[Array, "n d"],
    *,
    temperature: float,
    negative_margin: float,
) -> Float[Array, ""]:
    """CLAE's UEL loss: instance classification of views, with a term for each negative.

    Over the 2N stacked views, with e_rc = exp(<x_r, sg(x_c)> / temperature), c the
    negatives of r, m the margin and Z_r = e_r+ + m sum_c e_rc:
    ``-mean_r [ ln(e_r+ / Z_r) + m sum_c ln(1 - e_rc / Z_r) ]``.

    The gradient stops at the second factor of every similarity, the positive's too.
    Rows are used as given: normalise first.

    Args:
        z1: [N, D] floats, unit rows, first views.
        z2: [N, D] floats, unit rows, second views of the same images.
        temperature: above 0, dimensionless.
        negative_margin: m, at least 1: the weight of the negatives.

    Returns:
        The mean loss over the 2N views in nats, at least float32.

    Raises:
        ValueError: the shapes differ, there are fewer than two pairs, temperature is
            not above 0, or negative_margin is below 1.
        TypeError: an array does not hold floats.

    References:
        Ho and Vasconcelos 2020, arXiv:2010.12050, "UEL"; the loss is from Ye et al.
        2019, arXiv:1904.03436.
    """
    check_pairs(z1, z2, temperature=temperature)
    # Below 1, Z_r can be smaller than one of its own terms, and ln(1 - P) is not real.
    checks.check_at_least(1, negative_margin=negative_margin)
    views = stack_views(z1, z2)
    logits = similarities(views, jax.lax.stop_gradient(views))
    logits = logits / jnp.asarray(temperature, views.dtype)
    positive, negatives = split_pairs(logits)  # [2N], [2N, 2N - 2]
    margin = jnp.asarray(negative_margin, views.dtype)
    total = jnp.logaddexp(
        positive, jnp.log(margin) + jax.nn.logsumexp(negatives, axis=1)
    )  # ln Z
    rejected = _log_rejections(positive, negatives, total, margin)
    return jnp.mean(total - positive - margin * jnp.sum(rejected, axis=1))


def _log_rejections(
    positive: Float[Array, " r"],
    negatives: Float[Array, "r m"],
    total: Float[Array, " r"],
    margin: Float[Array, ""],
) -> Float[Array, "r m"]:
    """ln(1 - e_rc / Z_r), accurate even if one negative is almost all of Z_r.

    Only the largest negative of a row can hold more than half of Z. There 1 - P is
    lost to cancellation, so its numerator Z - e is summed without the term itself.
    """
    top = jax.nn.one_hot(
        jnp.argmax(negatives, axis=1), negatives.shape[1], dtype=jnp.bool_
    )
    largest = jnp.max(negatives, axis=1)
    rest = jax.nn.logsumexp(jnp.where(top, -jnp.inf, negatives), axis=1)
    others = jnp.logaddexp(positive, jnp.log(margin) + rest)
    others = jnp.logaddexp(others, jnp.log(margin - 1) + largest)  # ln(Z - e) [2N]
    small = jnp.where(top, -jnp.inf, negatives - total[:, None])
    return jnp.where(top, (others - total)[:, None], jnp.log1p(-jnp.exp(small)))


# The pieces that the losses of this package share.


def accumulator(*arrays: jax.Array) -> jnp.dtype:
    """The dtype that sums run in: that of the arrays, and at least float32."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def similarities(
    rows: Float[Array, "r d"], columns: Float[Array, "c d"], precision: str = HIGHEST
) -> Float[Array, "r c"]:
    """Dot products of all rows with all columns."""
    return matmul(rows, columns.T, precision)


def matmul(
    left: Float[Array, "r d"], right: Float[Array, "d c"], precision: str = HIGHEST
) -> jax.Array:
    """The matrix product, by default in full precision, summed in `accumulator`.

    The default of an accelerator rounds float32 factors to fewer bits, and a small
    temperature multiplies that error.
    """
    return jnp.matmul(
        left,
        right,
        precision=precision,
        preferred_element_type=accumulator(left, right),
    )


def one_against(
    positive: Float[Array, " r"], negatives: Float[Array, "r m"]
) -> Float[Array, " r"]:
    """Cross entropy of one logit among itself and the negatives of its row.

    Exact also where the loss is tiny, since no two large numbers are subtracted.
    """
    return jax.nn.softplus(jax.nn.logsumexp(negatives, axis=1) - positive)


def stack_views(
    z1: Float[Array, "n d"], z2: Float[Array, "n d"]
) -> Float[Array, "2*n d"]:
    """Stacks the first views and the second views, in the dtype of `accumulator`."""
    return jnp.concatenate([z1, z2]).astype(accumulator(z1, z2))


def without_diagonal(square: Float[Array, "*b n n"]) -> Float[Array, "*b n n-1"]:
    """Removes the diagonal of a square matrix; rows may be sharded.

    Entry c of row r comes from column c where c < r, else from column c + 1.
    """
    rows, columns = square.shape[-2:]
    before = jnp.tri(rows, columns - 1, k=-1, dtype=bool)
    before = jnp.broadcast_to(before, (*square.shape[:-2], rows, columns - 1))
    return jnp.where(before, square[..., :-1], square[..., 1:])


def split_pairs(
    square: Float[Array, "2*n 2*n"],
) -> tuple[Float[Array, " 2*n"], Float[Array, "2*n 2*n-2"]]:
    """Splits a matrix over stacked views into positives and negatives.

    Returns:
        [2N] the entries of each view with its twin, and [2N, 2N - 2] those with the
        views of other images, in column order.
    """
    n = square.shape[0] // 2
    positive = jnp.concatenate(
        [jnp.diagonal(square, offset=n), jnp.diagonal(square, offset=-n)]
    )
    blocks = square.reshape(2, n, 2, n).swapaxes(1, 2)  # twins lie on the diagonals
    negatives = without_diagonal(blocks).swapaxes(1, 2).reshape(2 * n, 2 * n - 2)
    return positive, negatives


def check_pairs(z1: jax.Array, z2: jax.Array, **positive: float) -> None:
    """Checks two views of at least two images, and numbers that must be above 0.

    Raises:
        ValueError: the shapes differ, there are fewer than two pairs (no negatives),
            or a number is not finite and above 0.
        TypeError: an array does not hold floats.
    """
    checks.check_embeddings(z1=z1, z2=z2)
    checks.check_same_shape(z1=z1, z2=z2)
    checks.check_positive(**positive)
    if z1.shape[0] < 2:
        raise ValueError("expected at least two pairs: one pair has no negatives")
