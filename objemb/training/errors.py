"""What a run cannot go on with."""

from __future__ import annotations

from objemb.checks import ObjembError


class TrainingError(ObjembError):
    """A run cannot start or go on: another run's folder, a loss that is not finite, a full disk."""


class TerminatedError(TrainingError):
    """A run was asked to end by SIGTERM, as schedulers and containers do it; the same command goes on."""
