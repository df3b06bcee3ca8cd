"""The search structures of an index: built by an engine, published and loaded like any other file of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from objemb import checks, registry
from objemb.checks import DamagedIndexError
from objemb.index.engines.base import AnyEngine, AnyStructure, ByteOutput, Engine, OnProgress, ignored
from objemb.index.storage.files import NewFile, check_buffer, write_errors
from objemb.index.storage.manifest import Manifest, StructureRecord
from objemb.index.storage.publish import exclusive
from objemb.index.storage.snapshot import Snapshot

#: The engine of structures for which none is named.
DEFAULT_ENGINE = "ivf_sq8"


def build_structure(
    folder: Path,
    like: Manifest,
    settings: Mapping[str, object],
    *,
    keep: bool = False,
    on_progress: OnProgress = ignored,
) -> None:
    """Build a structure over all rows that are published now, and publish it before others.

    Args:
        folder: The index.
        like: A state of this index.
        settings: ``{"name": engine, **settings}``; what is left out has its default.
        keep: Whether structures of other engines stay.
        on_progress: As of :meth:`objemb.index.engines.base.Engine.build`.

    Raises:
        ImportError: A library that the engine needs is not installed.
        ValueError: The engine is unknown, does not search such rows, or there are too few.
    """
    resolved = registry.resolve(Engine.kind, settings, "engine")
    engine, name = registry.build(Engine, resolved), resolved["name"]
    own = {key: value for key, value in resolved.items() if key != "name"}
    with exclusive(folder, like) as publisher, write_errors(folder):
        snapshot, next_file = publisher.snapshot, publisher.manifest.next_file
        schema = snapshot.manifest.schema
        if schema.name not in engine.accepts:
            accepted = checks.listed(sorted(engine.accepts))
            raise ValueError(f"engine {name!r}: expected rows of {accepted}, found an index of {schema.name!r}")
        for segment in snapshot.segments:
            segment.check_columns()  # a damaged one may be put back, the structure would stay as it is
        files: dict[str, NewFile] = {}

        def create(file: str) -> ByteOutput:
            files[file] = NewFile(publisher.folder, f"{next_file + len(files):08d}.ann")
            return files[file]

        try:
            engine.build(snapshot.blocks, on_progress).write(create)
            records = {file: written.finish() for file, written in files.items()}
        finally:
            for file in files.values():
                file.abandon()
        others = [s for s in publisher.manifest.structures if keep and s.engine != name]
        structure = StructureRecord(name, own, len(snapshot.segments), records)
        publisher.publish(structures=(structure, *others), next_file=next_file + len(files))


def engine_of(folder: Path, record: StructureRecord) -> AnyEngine:
    """The engine of a structure, with the settings that the structure was built with.

    Raises:
        ImportError: The engine is not installed, or cannot be imported.
        DamagedIndexError: The engine has no such settings.
    """
    if record.engine not in registry.names(Engine.kind):
        raise ImportError(f"the engine {record.engine!r} of a search structure is not installed")
    try:
        return engine_named(record.engine, **record.settings)
    except registry.PluginError as error:
        raise ImportError(str(error)) from error
    except (TypeError, ValueError) as error:
        raise DamagedIndexError(f"{folder}: search structure of {record.engine!r}: {error}") from error


def load_structure(snapshot: Snapshot, record: StructureRecord) -> AnyStructure:
    """A structure of a state.

    Raises:
        ImportError: The engine, or a library that it needs, is not installed.
        DamagedIndexError: A file was changed, or the structure was built over other rows.
    """
    engine, buffers = engine_of(snapshot.folder, record), snapshot.structure_files(record)
    if snapshot.manifest.schema.name not in engine.accepts:
        raise DamagedIndexError(f"{snapshot.folder}: the engine {record.engine!r} cannot search the rows of this index")
    for name, file in record.files.items():
        check_buffer(snapshot.folder, file, buffers[name])  # libraries trust what they read
    try:
        structure = engine.load(buffers)
        _check_covered(structure, record, snapshot)
        return structure
    except DamagedIndexError as error:
        files = ", ".join(str(snapshot.folder / f.name) for f in record.files.values()) or str(snapshot.folder)
        raise DamagedIndexError(f"{files}: {error}") from error


def _check_covered(structure: AnyStructure, record: StructureRecord, snapshot: Snapshot) -> None:
    rows, dim = int(snapshot.first_rows[record.segments]), snapshot.manifest.schema.dim
    if structure.covered not in (None, rows):
        raise DamagedIndexError(
            f"expected a search structure of the {rows} rows of {record.segments} segments, "
            f"found one of {structure.covered}"
        )
    if structure.dim not in (None, dim):
        raise DamagedIndexError(f"expected a search structure of vectors of length {dim}, found {structure.dim}")


def engine_named(name: str, **settings: object) -> AnyEngine:
    """An engine with its settings. Raises ``ValueError`` for what it does not know."""
    return registry.build(Engine, registry.resolve(Engine.kind, {"name": name, **settings}, "engine"))
