"""Runs of many processes: initialisation, common decisions, stopping together.

`jax.distributed` connects the processes: each runs the same commands on the same
configuration and owns some of the mesh's devices. This module adds a one-line message
if they cannot connect, and decisions that all processes take together.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from caco_jax.runs.settings import TIMEOUT_SECONDS
from caco_jax.schema import UserError
from caco_jax.training.sharding import replicated, rows

T = TypeVar("T")

# Longer than our own timeout: JAX would abort the process with a stack dump.
_GRACE_SECONDS = 60


class AgreedError(UserError):
    """An error that all processes know: all stop, and one of them prints the reason.

    Attributes:
        ours: whether this process prints it.
    """

    def __init__(self, message: str, *, ours: bool) -> None:
        super().__init__(message)
        self.ours = ours

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines of the error message."""
        return tuple(str(self).splitlines())


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
    give_up: Callable[[str], object] | None = None,
) -> None:
    """Connects this process to the others; call it before anything uses a device.

    Without the first three arguments JAX reads them from the environment of the cluster
    (SLURM, GKE, Cloud TPU, Open MPI, ...). On CPUs the processes communicate by Gloo.

    Args:
        coordinator_address: "host:port" on the machine of process 0; the port has to be
            free.
        num_processes: number of processes of the run.
        process_id: number of this process, from 0.
        timeout_seconds: longest wait for the other processes, here and at the end.
        give_up: called with a message, in another thread, if the others are missing by
            then; it should end the process, because JAX continues to wait. None: JAX
            aborts the process in the end.

    Raises:
        UserError: the values do not fit, or no cluster was found.
    """
    given = (coordinator_address, num_processes, process_id)
    _check(*given)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    place = coordinator_address or "the address that the cluster's environment names"
    # JAX does not raise here, it aborts; a coordinator without others waits, too.
    said = (
        f"--coordinator_address: not all processes connected to {place} within "
        f"{timeout_seconds} s; check that all were started and that process 0 can be "
        "reached, or change --coordinator_address or --initialization_timeout"
    )
    watchdog = threading.Timer(timeout_seconds, give_up or (lambda _: None), (said,))
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            *given,
            # Either all values are given or all are detected.
            cluster_detection_method=None if None in given else "deactivate",
            initialization_timeout=timeout_seconds + _GRACE_SECONDS,
            shutdown_timeout_seconds=timeout_seconds,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: expected a cluster that JAX detects, got none ({error}); "
            "give --coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from None
    finally:
        watchdog.cancel()
    if not is_primary():
        logging.getLogger("caco_jax").setLevel(logging.CRITICAL)


def _check(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Checks the values without the other processes."""
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num_processes: expected at least 1, got {num_processes}")
    last = float("inf") if num_processes is None else num_processes - 1
    if process_id is not None and not 0 <= process_id <= last:
        raise UserError(
            f"--process_id: expected 0 to --num_processes - 1 ({last}), got "
            f"{process_id}"
        )
    if coordinator_address is None:
        return
    host, _, port = coordinator_address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(
            f"--coordinator_address: expected HOST:PORT, got {coordinator_address}"
        )
    if process_id == 0:
        _check_free(int(port))


def _check_free(port: int) -> None:
    """Checks that process 0 can listen on the port; JAX would crash otherwise."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"--coordinator_address: cannot listen on port {port} here, where process "
            f"0 is: {os.strerror(error.errno or 0)}; name another port to all "
            "processes"
        ) from None


def is_primary() -> bool:
    """Whether this process writes files and prints. The call initialises the devices.

    There is exactly one such process, also in a run of one process.
    """
    return jax.process_index() == 0


def gather_texts(text: str) -> list[str]:
    """The texts of all processes, in their order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.zeros(max(lengths) + 1, np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [
        row[:length].tobytes().decode(errors="surrogatepass")
        for row, length in zip(rows, lengths, strict=True)
    ]


def all_or_none(act: Callable[[], T]) -> T:
    """Calls a function; if it refuses in one process, all fail. All must call it.

    Args:
        act: raises UserError to refuse; its result may differ between processes, and it
            must not wait for other processes.

    Raises:
        AgreedError: in all processes, if it was refused in one; `ours` is true in the
            first that refused.
        UserError: of the function, in a run of one process.
    """
    if jax.process_count() == 1:
        return act()
    result, refusal = None, ""
    try:
        result = act()
    except UserError as error:
        refusal = "\n".join(error.lines)
    refusals = gather_texts(refusal)
    refused = [index for index, message in enumerate(refusals) if message]
    if refused:
        (first, *_), everywhere = refused, len(set(refusals)) == 1
        message = (
            refusals[first] if everywhere else f"process {first}: {refusals[first]}"
        )
        raise AgreedError(message, ours=jax.process_index() == first)
    return result  # type: ignore[return-value]


def require_same(values: Mapping[str, Any]) -> None:
    """Stops all processes unless all have the same values; all must call it.

    Args:
        values: JSON values by name.

    Raises:
        AgreedError: they differ; the message names the differences from process 0.
    """
    texts = gather_texts(json.dumps(values, sort_keys=True, default=str))
    wanted = json.loads(texts[0])
    for index, text in enumerate(texts):
        if text != texts[0]:
            found = json.loads(text)
            differences = ", ".join(
                f"{key} ({found.get(key)!r}, not {wanted.get(key)!r})"
                for key in sorted(found.keys() | wanted.keys())
                if found.get(key) != wanted.get(key)
            )
            raise AgreedError(
                f"process {index} has other settings than process 0: {differences}; "
                "start all processes with the same flags and files",
                ours=is_primary(),
            )


def any_process(ask: Callable[[], bool], mesh: Mesh) -> Callable[[], bool]:
    """Makes a function that tells all processes whether any of them said yes.

    All call it at the same times. With many processes it returns the result of the
    previous call, so that none waits.

    Args:
        ask: this process's answer.
        mesh: of all processes.

    Returns:
        Whether one of them said yes.
    """
    if jax.process_count() == 1:
        return ask
    spread, answers = rows(mesh), [False]
    one_of = jax.jit(jnp.any, out_shardings=replicated(mesh))

    def asked() -> bool:
        said = np.asarray([ask()])
        flags = jax.make_array_from_callback((mesh.size,), spread, lambda _: said)
        answers.append(one_of(flags))
        return bool(answers.pop(0))

    return asked
