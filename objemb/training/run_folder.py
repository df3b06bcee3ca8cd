"""The folder of a training run."""

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
#: Key in ``metrics.json`` for the settings that were used after the last step.
AFTER = "after"
#: Settings that may differ when a run is resumed, because they do not change its result.
FREE = ("workers", "checkpoint_every", "log_every", "devices", "accelerator")


class RunFolder:
    """The files of a run.

    ::

        RUN/config.yaml      all settings
            log.jsonl        losses and figures, a line each
            tensorboard/     the same and pictures
            checkpoints/     states from which the run can be resumed
            metrics.json     figures of the last validation and the best of each; written last, which marks the run as
                             finished
            model/           the trained model
            nonfinite.json   report on a loss that was not finite
            lock             locked by the process that writes here; the file itself has no content

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)
        self.model = self.path / MODEL

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other runs within the context. The kernel releases the lock if the process dies.

        Raises:
            TrainingError: Another process is running in this folder, or the path is not a folder for a run.
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
                f"{self.path}: expected no other process in this folder, found a run in progress; "
                f"wait for it or choose another folder"
            ) from None

    def open(self, config: Mapping[str, object], *, force: bool, after: Collection[str] = ()) -> None:
        """Open the folder to resume its run, or to start one.

        Args:
            config: All settings of the run.
            force: Whether to start anew; removes the files of a run in the folder, and nothing else.
            after: Keys of the task that affect only what follows the last step; they may differ from those of the run.

        Raises:
            TrainingError: The folder contains a run with other settings and at least one checkpoint, or something that
                is not a run.
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
        """The metrics of a finished run, otherwise None.

        Args:
            after: Settings that affect what follows the last step; a run that was finished with others counts as not
                finished.
        """
        metrics = self._metrics()
        if metrics is None or metrics.pop(AFTER, {}) != plain(after):
            return None
        return metrics

    def write_metrics(self, metrics: Mapping[str, object]) -> None:
        """Replace ``metrics.json``."""
        write_whole(self.path / METRICS, json.dumps(metrics, indent=2) + "\n")

    def write_nonfinite(self, report: Mapping[str, object], rank: int = 0) -> Path:
        """Write ``nonfinite.json`` and return its path. NaN and infinity are written as strings.

        Processes other than the first (``rank`` above 0) write a file with the rank in its name.
        """
        file = self.path / (f"nonfinite.{rank}.json" if rank else NONFINITE)
        write_whole(file, json.dumps(report, indent=2, allow_nan=False) + "\n")
        return file

    def _expect_free(self) -> None:
        """Raise ``TrainingError`` if the path exists and is not the folder of a run."""
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{self.path}: expected a folder for the run, found a file; nothing was changed")
        names = {p.name for p in self.path.iterdir()} if self.path.is_dir() else set()
        if names - {LOCK} and CONFIG not in names:
            raise TrainingError(f"{self.path}: expected a new folder or a run, found other files; nothing was changed")

    def _metrics(self) -> dict[str, object] | None:
        """The metrics of a finished run; None if the file is missing or damaged, in which case it is written again."""
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
            lines = [f"{k}: expected {kept.get(k, 'nothing')!r}, found {wanted.get(k, 'nothing')!r}" for k in differing]
            raise TrainingError(
                f"{self.path}: expected the settings of the run in this folder, found others; "
                f"choose another folder, or pass --force (force=True) to start anew\n  " + "\n  ".join(lines)
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
        raise TrainingError(f"{_unreadable(file)}: the file is empty")
    return settings


def _unreadable(file: Path) -> str:
    return (
        f"{file}: expected the settings of the run, which are needed to resume it; restore the file, or pass --force "
        f"(force=True) to start anew"
    )


def _flat(settings: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of nested settings."""
    if not isinstance(settings, Mapping) or not settings:
        yield path, settings
        return
    for key, value in settings.items():
        yield from _flat(value, f"{path}.{key}" if path else str(key))


def _free(key: str) -> bool:
    part, _, name = key.partition(".")
    return part == "run" and name in FREE


def _is_part(key: str, names: Collection[str]) -> bool:
    """Whether a dotted key is one of these keys of the task, or below one."""
    return any(f"{key}.".startswith(f"task.{name}.") for name in names)
