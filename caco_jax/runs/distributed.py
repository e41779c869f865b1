"""Many processes as one program: how they meet, agree and stop.

The engine is `jax.distributed`: every process runs the same commands on the same
configuration and owns some of the mesh's devices. Here is what is around it: a meeting
that fails with one clear line, and decisions that all take or none.
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

# Above what we wait ourselves: JAX aborts the process with a dump of its stack.
_GRACE_SECONDS = 60


class AgreedError(UserError):
    """A refusal that all processes know of: all stop, and one of them says why.

    Attributes:
        ours: whether this process is the one.
    """

    def __init__(self, message: str, *, ours: bool) -> None:
        super().__init__(message)
        self.ours = ours

    @property
    def lines(self) -> tuple[str, ...]:
        """Those of the refusal."""
        return tuple(str(self).splitlines())


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
    give_up: Callable[[str], object] | None = None,
) -> None:
    """Joins this process to the others; before anything touches a device.

    Without the first three a cluster's environment says them: SLURM, GKE, TPU, Open MPI
    and what else JAX knows. On CPUs the processes talk through Gloo.

    Args:
        coordinator_address: "host:port" of process 0, which must be free there.
        num_processes: of the whole run.
        process_id: of this one, from 0.
        timeout_seconds: how long to wait for the others, here and at the end.
        give_up: called with a line, in another thread, if they are not there by then;
            it should end the process, for JAX waits on. None: JAX aborts it in the
            end.

    Raises:
        UserError: the values do not fit, or there are none.
    """
    given = (coordinator_address, num_processes, process_id)
    _check(*given)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    place = coordinator_address or "the address that the cluster's environment names"
    # JAX does not raise here, it aborts, and a coordinator that nobody joins waits too.
    said = (
        f"--coordinator_address: the processes did not all meet at {place} within "
        f"{timeout_seconds} s; see that all were started and that process 0 can be "
        "reached there, or change --coordinator_address or --initialization_timeout"
    )
    watchdog = threading.Timer(timeout_seconds, give_up or (lambda _: None), (said,))
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            *given,
            # What is said in full is not mixed with what is detected.
            cluster_detection_method=None if None in given else "deactivate",
            initialization_timeout=timeout_seconds + _GRACE_SECONDS,
            shutdown_timeout_seconds=timeout_seconds,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: no cluster was found ({error}); give "
            "--coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from None
    finally:
        watchdog.cancel()
    if not is_primary():
        logging.getLogger("caco_jax").setLevel(logging.CRITICAL)


def _check(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Checks what can be checked alone."""
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
    """Checks that process 0 can listen: JAX would end in a segmentation fault."""
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
    """Whether this process is the one that writes and prints; it touches the devices.

    There is always exactly one, also where there is but one process.
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
    """What a function returns, in every process or in none; all must call it.

    Args:
        act: raises UserError to refuse; it may differ among processes, and must not
            wait for others.

    Raises:
        AgreedError: in all processes, if it was refused in one; `ours` is true in the
            first that refused.
        UserError: the function's own, where there is but one process.
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
        values: by name, of what JSON can write.

    Raises:
        AgreedError: they have not; the message names what differs from process 0.
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
                f"process {index} was asked for another run than process 0: "
                f"{differences}; start all processes with the same flags and files",
                ours=is_primary(),
            )


def any_process(ask: Callable[[], bool], mesh: Mesh) -> Callable[[], bool]:
    """A question that all processes ask at the same times, and all get one answer to.

    Of many processes, the answer is that of the time before: nobody waits for it.

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
