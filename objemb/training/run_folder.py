"""The folder of a run."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from objemb import config as configs
from objemb.checks import TrainingError
from objemb.disk import write_whole
from objemb.registry import plain
from objemb.training.checkpoints import Checkpoints
from objemb.training.logger import LOG, TENSORBOARD

CONFIG, METRICS, NONFINITE, MODEL, CHECKPOINTS, LOCK = (
    "config.yaml",
    "metrics.json",
    "nonfinite.json",
    "model",
    "checkpoints",
    "lock",
)
#: Key of the metrics for settings of what followed the last step.
AFTER = "after"
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
            lock             held by the process that writes here; the file itself means nothing

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)
        self.model = self.path / MODEL

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """No other run writes into the folder within. The kernel lets go of the lock when the process dies.

        Raises:
            TrainingError: Another run is in the folder, or the place is no folder for a run.
        """
        from filelock import FileLock, Timeout

        self._expect_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            with lock.acquire(timeout=0):
                yield
        except Timeout:
            raise TrainingError(
                f"{self.path}: expected no other run in this folder, found one that is going on; "
                f"wait for it, or take another folder"
            ) from None

    def open(self, config: Mapping[str, object], *, force: bool, after: Collection[str] = ()) -> None:
        """Take up the run in the folder, or begin one.

        Args:
            config: All settings of the run.
            force: Start anew: the files of a run in the folder are removed, and nothing else.
            after: Keys of the task that say only what follows the last step, which may be done again in another way
                from the last checkpoint.

        Raises:
            TrainingError: The folder holds a run with other settings that has learned something, or something that is
                no run.
        """
        self._expect_free()
        if force:
            self._clear()
        file = self.path / CONFIG
        if file.is_file() and (self.checkpoints.exist or self._metrics() is not None):
            self._compare(_read_config(file), config, after if self.checkpoints.exist else ())
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(file, configs.dump_config(config).encode("utf-8", "backslashreplace"))

    def finished(self, after: Mapping[str, object] = MappingProxyType({})) -> dict[str, object] | None:
        """The metrics of a finished run, None while it is not.

        Args:
            after: Settings of what follows the last step: a run that was finished with others has that before it still.
        """
        metrics = self._metrics()
        if metrics is None or metrics.pop(AFTER, {}) != plain(after):
            return None
        return metrics

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """Replace ``metrics.json``."""
        write_whole(self.path / METRICS, json.dumps(metrics, indent=2) + "\n")

    def write_nonfinite(self, report: Mapping[str, object], rank: int = 0) -> Path:
        """Write ``nonfinite.json`` and return its path. NaN and infinity are written as texts, for JSON has none.

        Another process than the first one, whose ``rank`` is not 0, writes a file of its own.
        """
        file = self.path / (f"nonfinite.{rank}.json" if rank else NONFINITE)
        write_whole(file, json.dumps(report, indent=2, allow_nan=False) + "\n")
        return file

    def _expect_free(self) -> None:
        """Raise where something other than a run is in the place."""
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{self.path}: expected a folder for the run, found a file; it is left alone")
        names = {p.name for p in self.path.iterdir()} if self.path.is_dir() else set()
        if names - {LOCK} and CONFIG not in names:
            raise TrainingError(f"{self.path}: expected a new folder or a run, found something else; it is left alone")

    def _metrics(self) -> dict[str, object] | None:
        """What a finished run has written; a file that is damaged says nothing, and what it told is written again."""
        try:
            metrics = json.loads((self.path / METRICS).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return metrics if isinstance(metrics, dict) and metrics.get("finished") and "steps" in metrics else None

    def _compare(self, old: Mapping[str, object], new: Mapping[str, object], after: Collection[str]) -> None:
        kept, wanted = dict(_flat(old)), dict(_flat(plain(new)))
        differing = [
            k
            for k in (*wanted, *(k for k in kept if k not in wanted))
            if kept.get(k) != wanted.get(k) and not _free(k) and not _is_part(k, after)
        ]
        if differing:
            lines = [
                f"{k}: {kept.get(k, 'nothing')!r} there, {wanted.get(k, 'nothing')!r} asked for" for k in differing
            ]
            raise TrainingError(
                f"{self.path}: expected a run with these settings, found one with others; "
                f"take another folder, or pass --force (force=True) to start anew\n  " + "\n  ".join(lines)
            )

    def _clear(self) -> None:
        for file in (*(self.path / name for name in (CONFIG, LOG, METRICS)), *self.path.glob("nonfinite*.json")):
            file.unlink(missing_ok=True)
        for name in (TENSORBOARD, CHECKPOINTS, MODEL):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)


def _read_config(file: Path) -> dict[str, object]:
    """The settings of the run in a folder."""
    try:
        settings = configs.read_yaml(file)
    except ValueError as error:
        raise TrainingError(f"{_unreadable(file)}: {error}") from error
    if not settings:
        raise TrainingError(f"{_unreadable(file)}: it is empty")
    return settings


def _unreadable(file: Path) -> str:
    return (
        f"{file}: expected the settings of the run, without which it cannot go on; put the file back, or pass --force "
        f"(force=True) to start anew"
    )


def _flat(settings: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values."""
    if not isinstance(settings, Mapping) or not settings:
        yield path, settings
        return
    for key, value in settings.items():
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def _free(key: str) -> bool:
    part, _, name = key.partition(".")
    return part == "run" and name in FREE


def _is_part(key: str, names: Collection[str]) -> bool:
    """Whether a dotted key is one of these of the task, or lies below it."""
    return any(f"{key}.".startswith(f"task.{name}.") for name in names)
