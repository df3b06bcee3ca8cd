"""Public retrieval benchmarks, converted from downloaded files to evaluation sets. Nothing is downloaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from objemb import checks, registry
from objemb.datasets.benchmarks.base import Benchmark
from objemb.disk import write_whole

KIND = Benchmark.kind


class MissingFilesError(checks.ObjembError):
    """Files of a benchmark are missing. The message says which, where they belong and where to get them."""


def names() -> tuple[str, ...]:
    """All benchmarks."""
    return registry.names(KIND)


def prepare(
    name: str,
    root: str | Path,
    *,
    output: str | Path | None = None,
    distractors: str | Path | None = None,
    **options: object,
) -> Path:
    """Check a downloaded benchmark, and write it as an evaluation set.

    Args:
        name: Name of the benchmark.
        root: Folder of the downloaded files.
        output: The file to write, which is replaced; by default ``NAME.json`` in ``root``, with the variant selected by
            the options in its name.
        distractors: A folder of further images that are not relevant to any query, such as the million of Radenovic et
            al., 2018.
        **options: Arguments of the benchmark.

    Returns:
        The file that was written.

    Raises:
        MissingFilesError: Files are missing.
        BadGroundTruthError: The ground truth contradicts itself or the images.
        ValueError: The benchmark, option or folder does not exist.
    """
    root = Path(root)
    benchmark = registry.build(Benchmark, registry.resolve(KIND, {"name": name, **options}, name))
    missing = benchmark.missing(root) if root.is_dir() else [f"{root}: no such folder"]
    if missing:
        raise MissingFilesError(
            f"{name}: expected the files of the benchmark in {root}, found{checks.lines(missing)}\n{benchmark.layout}"
        )
    data: dict[str, Any] = {"name": benchmark.title, **benchmark.convert(root)}
    if distractors is not None:
        if not Path(distractors).is_dir():
            raise ValueError(f"distractors: expected a folder, found none at {distractors}")
        data["name"] += " with distractors"
    variant = f"{benchmark.variant}{'-distractors' if distractors is not None else ''}"
    path = Path(output) if output is not None else root / f"{name}{variant}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _moved(data, os.path.relpath(root, path.parent))
    if distractors is not None:
        data["distractors"] = Path(os.path.relpath(distractors, path.parent)).as_posix()
    write_whole(path, json.dumps(data, separators=(",", ":")) + "\n")
    return path


def prepared(name: str, root: str | Path) -> Path:
    """The evaluation set of a benchmark without options, written if it does not exist yet.

    Raises:
        MissingFilesError, BadGroundTruthError, ValueError: As :func:`prepare`.
    """
    checks.one_of("benchmark", name, names())
    path = Path(root) / f"{name}.json"
    return path if path.is_file() else prepare(name, root)


def _moved(data: dict[str, Any], prefix: str) -> dict[str, object]:
    """A set with files relative to the root, converted to be relative to the written file."""
    if prefix == ".":
        return data

    def moved(file: str) -> str:
        return Path(prefix, file).as_posix()

    def row(entry: dict[str, Any]) -> dict[str, object]:
        lists = entry.get("relevant")
        relevant = {"relevant": {g: list(map(moved, files)) for g, files in lists.items()}} if lists else {}
        return entry | {"file": moved(entry["file"])} | relevant

    return data | {part: list(map(row, data[part])) for part in ("images", "objects", "queries") if part in data}
