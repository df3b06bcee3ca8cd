"""Options of a whitening that do not go together, the same for all programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def check_whitening(on: Sequence[Path] | None, pairs: Path | None, dim: int | None, ridge: float) -> None:
    """Raise ``ValueError`` for what does not go together.

    Args:
        on: ``--whiten-on``.
        pairs: ``--whiten-pairs``.
        dim: ``--whiten-dim``.
        ridge: ``--whiten-ridge``.
    """
    if dim is not None and not on and pairs is None:
        raise ValueError("--whiten-dim: expected together with --whiten-on or --whiten-pairs, found alone")
    if ridge and pairs is None:
        raise ValueError("--whiten-ridge: expected together with --whiten-pairs, found alone")
    if on and pairs is not None:
        raise ValueError("--whiten-on, --whiten-pairs: expected one of them, found both")
