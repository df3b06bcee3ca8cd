"""How a run is done, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from objemb import checks
from objemb.registry import from_settings

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")
#: What precisions are called in settings and by the trainer.
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
ACCELERATORS = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class RunSettings:
    """How a run is done.

    Attributes:
        steps: Number of steps.
        batch: Examples of a step, shared among the processes.
        lr: Greatest learning rate.
        weight_decay: Of parameters with more than one dimension; norms and biases have none.
        optimizer: ``adamw`` (Loshchilov and Hutter 2019) or ``sgd`` (with Nesterov's momentum).
        momentum: Of ``sgd``.
        warmup: Steps in which the learning rate rises to ``lr`` in a straight line; a run that is shorter, such as a
            trial, rises throughout.
        schedule: After that: ``cosine`` down to 0 (Loshchilov and Hutter, "SGDR", 2017) or ``constant``.
        clip: Greatest norm of the gradient of all parameters; 0 for no limit.
        precision: ``32``, ``bf16`` or ``16`` (mixed, the latter with scaled losses).
        ema: Decay of the exponential moving average of the weights that is validated and left; 0 for none.
        validate_every: Steps between validations, 0 for one at the end only.
        checkpoint_every: Steps between checkpoints; there is one at the end in any case.
        log_every: Steps between lines of the log.
        workers: Processes that load examples; 0 loads them in the process that learns.
        seed: Of the first weights, the order of examples and everything random in a step.
        devices: Number of processes, each with a device of its own.
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
            raise ValueError(
                f"batch: expected a multiple of the {self.devices} devices, which share it, found {self.batch}"
            )

    @staticmethod
    def of(settings: Mapping[str, object]) -> RunSettings:
        """From the ``run`` part of a config.

        Raises:
            ValueError: Unknown keys (the nearest known one is suggested), missing keys, values out of range.
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
                f"run: accelerator: expected one of this machine, which has {count} of {kind}, found {self.devices} of "
                f"{kind} asked for; auto takes what there is, cpu is always there"
            )

    def to_json(self) -> dict[str, object]:
        """All settings, as :meth:`of` takes them."""
        return asdict(self)
