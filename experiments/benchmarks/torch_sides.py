"""PyTorch candidates of the benchmarks: a tuned version and one like the papers' code.

"tuned" is bfloat16 by autocast, channels last, fused optimiser and moving average,
torch.compile, the game's gradients in closed form for both directions at once.
"original" does what the papers' repositories do, rewritten from the mathematics:
float32 (TF32 products if the device has them), each direction separately, whole
matrices of logits and softmax, with copies.

Imported only where PyTorch is installed.
"""

import copy
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from experiments.benchmarks import timing, torch_nets
from experiments.benchmarks.workers import Ready

MOMENTUM, LEARNING_RATE = 0.9, 0.03
TARGET_MOMENTUM = 0.99
Tensor = torch.Tensor


def tuned_play(
    bank: Tensor,
    velocity: Tensor,
    rows: Tensor,
    partners: Tensor,
    *,
    temperature: float,
    bank_temperature: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Updates the bank; returns the loss of both directions and its gradient.

    Args:
        bank: [K, D], changed in place.
        velocity: [K, D], changed in place.
        rows: [2N, D] queries of both views.
        partners: [2N, D] the other view's keys.
        temperature: temperature of the encoder's loss.
        bank_temperature: temperature of the bank's payoff.
        dtype: dtype of the products.
    """
    pairs = len(rows) / 2
    lengths = bank.norm(dim=1, keepdim=True)
    units, narrow = (bank / lengths).to(dtype), rows.to(dtype)
    positives = (partners.to(dtype) @ units.T).argmax(dim=1)[:, None]
    cosines = narrow @ units.T  # [2N, K]
    logits = cosines.float() / temperature
    log_mass = torch.logsumexp(logits, dim=1, keepdim=True)
    loss = (log_mass - logits.gather(1, positives)).sum() / pairs
    weights = torch.exp(logits - log_mass)
    descent = weights.to(dtype) @ units - units[positives[:, 0]]

    if bank_temperature != temperature:
        weights = torch.softmax(cosines.float() / bank_temperature, dim=1)
    weights = weights.scatter(1, positives, 1 - weights.gather(1, positives))
    pull = (weights.to(dtype).T @ narrow).float()  # [K, D]
    units = units.float()
    move = pull - (pull * units).sum(dim=1, keepdim=True) * units
    velocity.mul_(MOMENTUM).sub_(move / (pairs * bank_temperature * lengths))
    bank.sub_(velocity, alpha=LEARNING_RATE)
    return loss, descent.float() / (pairs * temperature)


def original_play(
    bank: Tensor,
    velocity: Tensor,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    *,
    temperature: float,
    bank_temperature: float,
) -> Tensor:
    """Updates the bank; returns the loss of both directions, differentiable."""
    loss = torch.zeros((), device=bank.device)
    move = torch.zeros_like(bank)
    for query, key in zip(queries, reversed(keys), strict=True):
        entries = functional.normalize(bank.clone(), dim=1)
        with torch.no_grad():
            positives = torch.argmax(torch.mm(key, entries.t()), dim=1)
        logits = torch.mm(query, entries.t())
        loss = loss + functional.cross_entropy(logits / temperature, positives)
        with torch.no_grad():
            cosines = logits.clone().detach()
            weights = torch.softmax(cosines / bank_temperature, dim=1)
            own = torch.arange(len(query), device=bank.device)
            weights[own, positives] = 1 - weights[own, positives]
            pull = torch.mm(weights.t(), query.detach())
            along = (weights * cosines).sum(dim=0)[:, None] * entries
            lengths = bank.norm(dim=1, keepdim=True)
            move += (pull - along) / (len(query) * bank_temperature * lengths)
    with torch.no_grad():
        velocity.copy_(MOMENTUM * velocity - move)
        bank.copy_(bank - LEARNING_RATE * velocity)
    return loss


def bank(
    *,
    way: str,
    queries: int,
    entries: int,
    dim: int,
    temperature: float,
    bank_temperature: float,
    compiled: bool,
) -> Ready:
    """The bank game alone, in one of the versions."""
    device = start()
    table = torch.randn(entries, dim, device=device)
    velocity = torch.zeros_like(table)
    embeddings = torch.randn(2, 2, queries, dim, device=device)
    rows, partners = functional.normalize(embeddings, dim=-1)
    temperatures = {"temperature": temperature, "bank_temperature": bank_temperature}
    if way == "tuned":
        play = _compiled(tuned_play, compiled)
        joined = rows.reshape(-1, dim), partners.flip(0).reshape(-1, dim)

        def step() -> None:
            with torch.no_grad():
                play(table, velocity, *joined, **temperatures, dtype=_narrow(device))

    else:
        rows.requires_grad_()

        def step() -> None:
            rows.grad = None
            original_play(table, velocity, rows, partners, **temperatures).backward()

    return _ready(step, device)


def caco(
    *,
    way: str,
    batch: int,
    pixels: int,
    network: dict[str, Any],
    widths: Sequence[int],
    entries: int,
    temperature: float,
    compiled: bool,
) -> Ready:
    """CaCo's whole step on two given views on the device, in one of the versions."""
    device = start()
    online = torch_nets.encoder(network, widths, norm=True).to(device)
    views = [torch.randn(batch, 3, pixels, pixels, device=device) for _ in range(2)]
    table = torch.randn(entries, widths[-1], device=device)
    game = {
        "bank": table,
        "velocity": torch.zeros_like(table),
        "temperature": temperature,
        "bank_temperature": temperature,
    }
    if way == "tuned":
        return _ready(_tuned_caco(online, views, game, compiled), device)
    return _ready(_original_caco(online, views, game), device)


def _tuned_caco(
    online: Any, views: Sequence[Tensor], game: dict[str, Any], compiled: bool
) -> Callable[[], None]:
    kind = views[0].device.type
    online = online.to(memory_format=torch.channels_last)
    views = [view.to(memory_format=torch.channels_last) for view in views]
    target = copy.deepcopy(online).requires_grad_(False)
    averages, values = list(target.parameters()), list(online.parameters())
    optimizer = _sgd(online, fused=True)
    play = _compiled(tuned_play, compiled)
    encode, encode_keys = _compiled(online, compiled), _compiled(target, compiled)

    def step() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(averages, values, 1 - TARGET_MOMENTUM)
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            with torch.no_grad():
                keys = [encode_keys(view) for view in reversed(views)]
            embeddings = torch.cat([encode(view) for view in views])
        rows = functional.normalize(embeddings.float(), dim=1)
        with torch.no_grad():
            partners = functional.normalize(torch.cat(keys).float(), dim=1)
            _, descent = play(
                rows=rows.detach(), partners=partners, dtype=_narrow(kind), **game
            )
        optimizer.zero_grad(set_to_none=True)
        rows.backward(descent)
        optimizer.step()

    return step


def _original_caco(
    online: Any, views: Sequence[Tensor], game: dict[str, Any]
) -> Callable[[], None]:
    target = copy.deepcopy(online).requires_grad_(False)
    optimizer = _sgd(online, fused=False)

    def step() -> None:
        with torch.no_grad():
            for average, value in zip(
                target.parameters(), online.parameters(), strict=True
            ):
                average.data = average.data * TARGET_MOMENTUM + value.data * (
                    1 - TARGET_MOMENTUM
                )
            keys = [functional.normalize(target(view), dim=1) for view in views]
        queries = [functional.normalize(online(view), dim=1) for view in views]
        loss = original_play(queries=queries, keys=keys, **game)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def simclr(
    *,
    batch: int,
    images: int,
    network: dict[str, Any],
    widths: Sequence[int],
    temperature: float,
    workers: int,
    compiled: bool,
) -> Ready:
    """SimCLR's tuned step, with a DataLoader whose workers use Pillow."""
    from experiments.benchmarks.torch_loader import view_batches

    device = start()
    model: Any = torch_nets.encoder(network, widths, norm=False).to(device)
    model = model.to(memory_format=torch.channels_last)
    optimizer = _sgd(model, fused=True)
    encode = _compiled(model, compiled)
    batches = view_batches(images, batch, workers=workers, pin=device == "cuda")
    loss_of = _compiled(functools.partial(nt_xent, temperature=temperature), compiled)

    def step() -> None:
        views = torch.cat(next(batches)).to(device, non_blocking=True)
        views = views.to(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            embeddings = encode(views)
        loss = loss_of(embeddings.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return _ready(step, device)


def nt_xent(embeddings: Tensor, *, temperature: float) -> Tensor:
    """NT-Xent of [2N, D] embeddings, view by view."""
    rows = functional.normalize(embeddings, dim=1)
    logits = rows @ rows.T / temperature
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    labels = torch.arange(len(rows), device=rows.device).roll(len(rows) // 2)
    return functional.cross_entropy(logits.masked_fill(itself, -torch.inf), labels)


def start() -> str:
    """The device, with its cached memory freed and TF32 allowed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", timing.cores())))
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return device


def _ready(step: Callable[[], None], device: str) -> Ready:
    if device == "cpu":
        return Ready(step, lambda: None)
    return Ready(
        step,
        torch.cuda.synchronize,
        lambda: {"memory_bytes": torch.cuda.max_memory_allocated()},
    )


def _compiled(call: Any, compiled: bool) -> Any:
    return torch.compile(call, dynamic=False) if compiled else call


def _narrow(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def _sgd(model: Any, *, fused: bool) -> Any:
    return torch.optim.SGD(
        model.parameters(),
        LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=1e-4,
        fused=fused or None,
    )
