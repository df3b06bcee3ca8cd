"""The folder of a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from objemb import config as configs
from objemb.training.checkpoints import Checkpoints
from objemb.training.errors import TrainingError
from objemb.training.journal import LOG, TENSORBOARD

CONFIG, METRICS, NONFINITE, MODEL, CHECKPOINTS = (
    "config.yaml",
    "metrics.json",
    "nonfinite.json",
    "model",
    "checkpoints",
)
#: Settings that may differ when a run goes on: they say how it is done, not what comes out.
FREE = ("workers", "checkpoint_every", "log_every", "devices", "accelerator")


class RunFolder:
    """The files of a run.

    ::

        RUN/config.yaml      all settings
            log.jsonl        losses and figures, a line each
            tensorboard/     the same and pictures
            checkpoints/     where the run goes on
            metrics.json     figures of the last validation and the best of each; written last, so that a run is
                             finished when it says so
            model/           what the run leaves
            nonfinite.json   where a loss was not finite

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)
        self.model = self.path / MODEL

    def open(self, config: Mapping[str, Any], *, force: bool) -> None:
        """Make the folder, or take up the run in it.

        Args:
            config: All settings of the run.
            force: Start anew: the files of a run in the folder are removed, and nothing else.

        Raises:
            TrainingError: The folder holds a run with other settings and a checkpoint, or something that is no run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{self.path}: expected a folder for the run, found a file; it is left alone")
        file = self.path / CONFIG
        if self.path.is_dir() and any(self.path.iterdir()) and not file.is_file():
            raise TrainingError(f"{self.path}: expected a new folder or a run, found something else; it is left alone")
        if force:
            self._clear()
        if file.is_file() and self.checkpoints.file.is_file():  # otherwise nothing was learned yet
            self._compare(configs.read_yaml(file), config)
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(file, configs.dump_config(config))

    def finished(self) -> dict[str, Any] | None:
        """The metrics of a finished run, None while it is not."""
        file = self.path / METRICS
        metrics = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return metrics if metrics.get("finished") else None

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace ``metrics.json``."""
        write_atomically(self.path / METRICS, json.dumps(metrics, indent=2) + "\n")

    def write_nonfinite(self, report: Mapping[str, Any]) -> Path:
        """Write ``nonfinite.json`` and return its path. NaN and infinity are written as texts, for JSON has none."""
        file = self.path / NONFINITE
        write_atomically(file, json.dumps(report, indent=2, allow_nan=False) + "\n")
        return file

    def _compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        found, wanted = dict(_flat(old)), dict(_flat(configs.plain(new)))
        differing = [
            k
            for k in (*wanted, *(k for k in found if k not in wanted))
            if found.get(k) != wanted.get(k) and not _free(k)
        ]
        if differing:
            lines = [
                f"{k}: {found.get(k, 'nothing')!r} there, {wanted.get(k, 'nothing')!r} asked for" for k in differing
            ]
            raise TrainingError(
                f"{self.path}: expected a run with these settings, found one with others; "
                f"take another folder, or pass --force (force=True) to start anew\n  " + "\n  ".join(lines)
            )

    def _clear(self) -> None:
        for name in (CONFIG, LOG, METRICS, NONFINITE):
            (self.path / name).unlink(missing_ok=True)
        for name in (TENSORBOARD, CHECKPOINTS, MODEL):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)


def write_atomically(file: Path, text: str) -> None:
    """Write a text file beside its place, then rename it into place."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(partial, file)


def _flat(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values."""
    if not isinstance(settings, Mapping) or not settings:
        yield path, settings
        return
    for key, value in settings.items():
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def _free(key: str) -> bool:
    part, _, name = key.partition(".")
    return part == "run" and name in FREE
