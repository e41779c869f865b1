"""Tiny runs of five methods, in one process or in many that are launched here.

As a program it is one of many: ``python -m tests.runs.processes FOLDER NAME...``
trains what is named, told by its environment how many they are, as by SLURM.
"""

import contextlib
import logging
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax

from caco_jax.config.build import pretrain
from caco_jax.config.sections import default_config, experiment_config
from caco_jax.runs.distributed import initialize

SETTINGS = {
    "encoder.backbone": "tests.runs.processes:Backbone",
    "encoder.projector": "mlp",
    "encoder.projector_widths": (4,),
    "data.source": "fake:8x8x1x48",
    "data.views": "tests.runs.processes:VIEWS",
    "training.batch_size": 24,
    "training.epochs": 2,
    "training.checkpoint_every_epochs": 1,
    "evaluation.knn_every_epochs": 2,
    "evaluation.knn_neighbours": 3,
    # Mild: at the papers' own temperatures the last bit grows at every step.
    "method.temperature": 0.5,
}
METHODS = {
    "caco": {"method.bank_size": 40, "method.bank_temperature": 0.4},
    "adco": {"method.bank_size": 40, "method.bank_temperature": 0.4},
    "moco": {"method.queue_size": 32},
    "simclr": {},
    "simclr+clae": {"adversarial.epsilon": 0.01},
}


def config(method):
    """The run of a method, by its name in `METHODS`."""
    values = default_config(method.partition("+")[0])
    values.update_from_flattened_dict({**SETTINGS, **METHODS[method]})
    return experiment_config(values)


class Backbone(nn.Module):
    """Dense, the library's norm, ReLU."""

    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, images, *, train, branch):
        hidden = nn.Dense(8)(images.reshape(len(images), -1))
        return nn.relu(self.norm()(hidden, train=train, branch=branch))


def plain(key, image):
    return image


def noisy(key, image):
    return image + 0.1 * jax.random.normal(key, image.shape)


VIEWS = (plain, noisy)


def train(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Trains each, or goes on with what is in its sub-folder.

    Args:
        folder: of all.
        names: each of `METHODS`, what follows a slash tells runs of one method apart.
    """
    for name in names:
        pretrain(config(name.partition("/")[0]), folder / name.replace("/", "_"))


class Ended(NamedTuple):
    """What became of a process."""

    status: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def slurm(processes: int) -> list[dict[str, str]]:
    """What SLURM tells each process of a run on this machine."""
    shared = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    return [
        {**shared, "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
        for index in range(processes)
    ]


@contextlib.contextmanager
def launched(
    commands: Sequence[Sequence[str]],
    *,
    devices: int,
    environments: Sequence[dict[str, str]] | None = None,
) -> Iterator[list[subprocess.Popen]]:
    """One process a command, with so many virtual devices; all ended at the end."""
    # Of a flag given twice the last counts.
    flags = f"--xla_force_host_platform_device_count={devices}"
    shared = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
    }
    running: list[subprocess.Popen] = []
    try:
        for command, own in zip(
            commands, environments or [{}] * len(commands), strict=True
        ):
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env=shared | own,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def ended(running: Sequence[subprocess.Popen], *, timeout_s: float) -> list[Ended]:
    """All processes, once they have ended by themselves."""
    outputs = [process.communicate(timeout=timeout_s) for process in running]
    return [
        Ended(process.returncode, *output)
        for process, output in zip(running, outputs, strict=True)
    ]


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger("caco_jax").setLevel(logging.INFO)
    initialize(timeout_seconds=120)
    train(pathlib.Path(sys.argv[1]), sys.argv[2:])
