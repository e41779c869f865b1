"""Progress of a run, saved in each checkpoint beside the state."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

import caco_jax
from caco_jax.data.pipeline import BadImages
from caco_jax.runs.machine import machine, peak_memory_bytes
from caco_jax.schema import UserError
from caco_jax.training.loop import Metrics, Throughput

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, its hash, and the versions and devices that run it."""
    text = json.dumps(config, sort_keys=True)
    return {
        "config": config,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "versions": {
            "caco_jax": caco_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "devices": [device.device_kind for device in jax.devices()],
        "machine": machine(),
    }


@dataclasses.dataclass
class RunProgress:
    """The progress of a run: everything beside the train state that its result needs.

    Attributes:
        epoch_steps: steps in an epoch; None before the run has trained.
        image_digest: digest of the training images; None before the run has trained.
        rows: the metric lines of the epochs done.
        begun: the metrics of each step of the current epoch; of all its steps if only
            its metric line is missing.
        throughput: time and images so far.
        peak_memory_bytes: maximum over all its processes so far.
        bad_images: the reason for each unreadable image, by its number.
        provenance: of the process that saved, see `provenance`.
    """

    epoch_steps: int | None = None
    image_digest: str | None = None
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    begun: Metrics = dataclasses.field(default_factory=dict)
    throughput: Throughput = dataclasses.field(default_factory=Throughput)
    peak_memory_bytes: int = 0
    bad_images: dict[int, str] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of further steps of the current epoch."""
        for name, values in metrics.items():
            before = self.begun.get(name, values[:0])
            self.begun[name] = np.concatenate([before, values])

    def require_same_images(
        self, *, epoch_steps: int, image_digest: str, changes: Collection[str]
    ) -> None:
        """Checks that a run can be resumed with the present images.

        Args:
            epoch_steps: steps that an epoch would have.
            image_digest: digest of the present images.
            changes: keys of the configuration that may differ; one of the section
                "data" allows other images.

        Raises:
            UserError: it cannot.
        """
        if self.epoch_steps not in (None, epoch_steps):
            raise UserError(
                f"--resume_with_changes: expected {self.epoch_steps} steps in an "
                f"epoch, as before, got {epoch_steps}; keep the images and "
                "config.training.batch_size"
            )
        allowed = any(key.startswith("data.") for key in changes)
        if not allowed and self.image_digest not in (None, image_digest):
            raise UserError(
                "--workdir: expected the images of the existing run, in memory or "
                "streamed as before, got others; put back the images, "
                "config.data.data_dir or config.data.max_resident_bytes, or name one "
                "of these in --resume_with_changes to resume with the present images"
            )

    def is_waiting(self) -> bool:
        """Whether all steps of an epoch are done and its metric line is missing."""
        return len(self.begun.get("loss", ())) == self.epoch_steps

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Adds the line of the epoch and drops the metrics of its steps."""
        self.rows.append(row)
        self.begun = {}

    def is_best(self) -> bool:
        """Whether the kNN accuracy of the last epoch is the best so far."""
        *before, last = [row.get("knn") for row in self.rows]
        seen = [accuracy for accuracy in before if accuracy is not None]
        return last is not None and last > max(seen, default=-1)

    def note_process(self, bad: BadImages) -> None:
        """Records the peak memory and the unreadable images of this process."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes())
        self.bad_images |= bad.reasons

    def summary(self) -> dict[str, Any]:
        """Time, throughput and memory of the run, as in ``summary.json``."""
        last = self.rows[-1] if self.rows else {"epoch": 0, "step": 0}
        return {
            "epochs": last["epoch"],
            "steps": last["step"],
            "images": self.throughput.images,
            "pretrain_seconds": self.throughput.seconds,
            "images_per_second": self.throughput.images_per_second(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "bad_images": len(self.bad_images),
            "machine": self.provenance.get("machine", "an unknown machine"),
        }

    def as_json(self) -> dict[str, Any]:
        """The progress as plain values, exactly; names are those of version 0.1."""
        values = {**vars(self), "progress": vars(self.throughput)}
        del values["throughput"]
        begun = {
            name: [str(values.dtype), values.tolist()]
            for name, values in self.begun.items()
        }
        return {**values, "begun": begun}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunProgress":
        """Inverse of `as_json`."""
        values = dict(values)
        throughput = Throughput()
        vars(throughput).update(values.pop("progress"))
        progress = cls(**values, throughput=throughput)
        progress.begun = {
            name: np.asarray(numbers, dtype)
            for name, (dtype, numbers) in values["begun"].items()
        }
        progress.bad_images = {int(r): why for r, why in values["bad_images"].items()}
        return progress
