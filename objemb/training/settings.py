"""Settings of a run that do not depend on its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from objemb import checks
from objemb.registry import from_settings

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")
#: The trainer's names of the precisions.
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
ACCELERATORS = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run.

    Attributes:
        steps: Number of steps.
        batch: Number of examples per step, divided among the processes.
        lr: Maximum learning rate.
        weight_decay: Weight decay of parameters with more than one dimension; norms and biases have none.
        optimizer: ``adamw`` (Loshchilov and Hutter 2019) or ``sgd`` (with Nesterov momentum).
        momentum: Momentum of ``sgd``.
        warmup: Number of steps in which the learning rate rises linearly to ``lr``; in a shorter run, such as a trial,
            it rises throughout.
        schedule: Schedule after the warm-up: ``cosine`` decay to 0 (Loshchilov and Hutter, "SGDR", 2017) or
            ``constant``.
        clip: Maximum norm of the gradient of all parameters; 0 for no clipping.
        precision: ``32``, or mixed precision ``bf16`` or ``16`` (with loss scaling).
        ema: Decay of the exponential moving average of the weights, which is validated and saved; 0 for none.
        validate_every: Steps between validations, 0 for one at the end only.
        checkpoint_every: Steps between checkpoints; one is always written at the end.
        log_every: Steps between lines of the log.
        workers: Number of processes that load examples; 0 loads them in the training process.
        seed: Seed of initial weights, order of the examples and all random choices in a step.
        devices: Number of processes, each with its own device.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    momentum: float = 0.9
    warmup: int = 0
    schedule: str = "cosine"
    clip: float = 0.0
    precision: str | int = "32"
    ema: float = 0.0
    validate_every: int = 0
    checkpoint_every: int = 100
    log_every: int = 10
    workers: int = 1
    seed: int = 0
    devices: int = 1
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "log_every", "devices"):
            checks.whole(name, getattr(self, name))
        for name in ("warmup", "validate_every", "workers", "seed"):
            checks.whole(name, getattr(self, name), 0)
        checks.positive("lr", self.lr)
        checks.between("weight_decay", self.weight_decay, 0, 1e6)
        checks.between("clip", self.clip, 0, 1e6)
        checks.between("ema", self.ema, 0, 0.999999)
        checks.between("momentum", self.momentum, 0, 1)
        checks.one_of("optimizer", self.optimizer, OPTIMIZERS)
        checks.one_of("schedule", self.schedule, SCHEDULES)
        object.__setattr__(self, "precision", checks.one_of("precision", str(self.precision), tuple(PRECISIONS)))
        checks.one_of("accelerator", self.accelerator, ACCELERATORS)
        object.__setattr__(self, "warmup", min(self.warmup, self.steps))
        if self.batch % self.devices:
            raise ValueError(f"batch: expected a multiple of the {self.devices} devices, found {self.batch}")

    @staticmethod
    def of(settings: Mapping[str, object]) -> RunSettings:
        """The settings in the ``run`` part of a config.

        Raises:
            ValueError: There are unknown keys (the nearest known one is suggested), missing keys or values out of
                range.
        """
        return from_settings(RunSettings, settings, "run")

    def expect_devices(self) -> None:
        """Raise ``ValueError`` for an accelerator, or a number of devices, that this machine does not have."""
        kind = self.accelerator
        if kind in ("cpu", "auto"):
            return
        count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
        if self.devices > count:
            raise ValueError(
                f"run: accelerator: expected at most the {count} {kind} devices of this machine, found {self.devices}; "
                f"use auto for the available one, or cpu"
            )

    def to_json(self) -> dict[str, object]:
        """All settings, as :meth:`of` takes them."""
        return asdict(self)
