"""Finds images in folders, lists and single files, in a reproducible order, one at a time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from objemb import checks
from objemb.images.kinds import may_be_photo, named_as_image
from objemb.images.names import find_spelled, is_address, printable
from objemb.images.object_stores import fetched, find_object, in_object_store, joined, key_of, list_objects
from objemb.images.photo_lists import READERS, ListedPhoto
from objemb.structures import Scalar

#: Folders that systems create beside photos, in lower case: Synology's thumbnails (``@eaDir``), recycle bins,
#: snapshots, and metadata in macOS archives.
LEFT_OUT = frozenset(
    (
        "@eadir",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__macosx",
    )
)


@dataclass(frozen=True)
class ImageRef:
    """An image to be read.

    Attributes:
        id: Its id in an index: valid UTF-8, the same in every run, unique among the images of the same sources.
        path: Path of its file; of a photo in an object store, bucket and key.
        metadata: Metadata from its source, by column.
        address: Its address in an object store, such as ``s3://bucket/shelf/1.jpg``; empty for a file.
        version: What changes with an object, if its source has told it, see
            :class:`objemb.images.object_stores.StoredObject`.
    """

    id: str
    path: Path
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    address: str = ""
    version: str = ""

    @property
    def place(self) -> str:
        """Its address or its path, for messages."""
        return printable(self.address or str(self.path))

    def to_json(self) -> dict[str, object]:
        """``{"id", "path", "metadata"}``."""
        return {"id": self.id, "path": self.place, "metadata": dict(self.metadata)}


@dataclass(frozen=True)
class SkippedImage:
    """An image that was not read, and the reason; a line of the error list.

    Attributes:
        id: The id that the image has or would have.
        path: The path that was tried.
        reason: The reason, in a few words.
    """

    id: str
    path: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """``{"id", "path", "reason"}``."""
        return {"id": self.id, "path": self.path, "reason": self.reason}


def find_images(sources: str | Path | Sequence[str | Path]) -> Iterator[ImageRef | SkippedImage]:
    """Iterate over all images of some sources, source by source, each file once.

    A source is

    - a folder: its images and those of its subfolders, sorted by the bytes of their names. Images are files with the
      suffix of an image (``.jpg``, ``.png``, ...), and files with other names whose first bytes are those of an image.
      Hidden files and folders and the folders of :data:`LEFT_OUT` (thumbnails, recycle bins) are left out; links are
      followed, each folder once;
    - a list: ``.txt`` (one path per line, lines that start with ``#`` are comments), ``.csv``, ``.tsv`` or ``.parquet``
      (a column ``path``, ``file`` or ``image``, optionally ``id``; other columns become metadata), or ``.json`` (COCO,
      or an evaluation set: its images and queries). Its paths are relative to its own folder; COCO images may also be
      in the folder ``images`` beside it. If a file does not exist, other spellings of its name are tried, see
      :func:`objemb.images.names.spellings`;
    - any other file: a single image;
    - the address of an object store, such as ``s3://bucket/shelf``: a folder, list or image there (links and contents
      of files without an image's suffix are not looked at). A list, wherever it is, may name addresses as well.

    The id of an image is its path relative to the folder (or to the folder of the list; the absolute path if it is
    elsewhere and given as such; the name of a single image), with ``/`` as separator. Tables may define it in the
    column ``id``; in COCO files it is the ``file_name``. If an earlier source uses an id for another file, the id is
    prefixed with the name of its source (``shelf/front.jpg``, or else ``shelf-2/front.jpg``); a repeated id within a
    table is an error of that line. A table may list a photo in several rows: rows with different ids are different
    images; without an id, a row that differs from an earlier one of the same photo is an error. So ids are the same in
    every run over the same sources, and adding a source at the end changes none.

    Folders are read lazily; memory holds the names of one folder and about two hundred bytes per image.

    Raises:
        ValueError: A source does not exist, or a list cannot be read or contains no photo. Raised by the call itself,
            before the first image.
    """
    named = [sources] if isinstance(sources, str | Path) else sources
    given = [s if isinstance(s, str) and in_object_store(s) else Path(s) for s in named]
    missing = [str(s) for s in given if not (os.path.exists(s) if isinstance(s, Path) else find_object(s))]
    if missing:
        raise ValueError(
            f"sources: expected folders, images or lists that exist, found none at {checks.listed(missing)}"
        )
    return _each_once([(_source_name(source), _open_source(source)) for source in given])


@dataclass(frozen=True)
class _Candidate:
    """An image before its id is final. ``real`` is its path without links, or its address; ``named`` is true if a table
    gave the id."""

    id: str
    path: Path
    real: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    named: bool = False
    problem: str = ""
    address: str = ""
    version: str = ""


def _open_source(source: Path | str) -> Iterator[_Candidate]:
    if isinstance(source, str):
        return _open_address(source)
    if source.is_dir():
        return _walk(source)
    if reader := READERS.get(source.suffix.lower()):
        return _opened_list(source, reader)
    return iter([_Candidate(source.name, source, os.path.realpath(source))])


def _open_address(address: str) -> Iterator[_Candidate]:
    """Images at an address that exists in an object store."""
    entry = find_object(address)
    if entry is None or entry.folder:
        return _walk_address(address, "")
    key = PurePosixPath(key_of(address))
    if reader := READERS.get(key.suffix.lower()):
        with fetched(address) as file:  # read to its end, since the copy is removed
            candidates = list(_opened_list(file, reader, address.rpartition("/")[0]))
        return iter(candidates)
    return iter([_Candidate(key.name, Path(key), address, address=address, version=entry.version)])


def _walk_address(root: str, inside: str) -> Iterator[_Candidate]:
    """Images under an address of an object store, depth first, by name."""
    for entry in list_objects(joined(root, inside)):
        if entry.name.startswith(".") or (entry.folder and entry.name.lower() in LEFT_OUT):
            continue
        id = inside + entry.name
        if entry.folder:
            yield from _walk_address(root, id + "/")
        elif named_as_image(entry.name):
            address = joined(root, id)
            yield _Candidate(id, Path(key_of(address)), address, address=address, version=entry.version)


def _opened_list(
    source: Path, reader: Callable[[Path], Iterator[ListedPhoto]], folder: str = ""
) -> Iterator[_Candidate]:
    """Images of a list, which is read up to the first image at once; ``folder`` is the address of its folder, if it is
    one of an object store."""
    first: list[_Candidate] = []
    try:
        with open(source, "rb"):
            candidates = _listed(source, reader(source), folder)
        for candidate in candidates:
            first.append(candidate)
            if not candidate.problem:
                return itertools.chain(first, candidates)
    except OSError as error:
        raise ValueError(f"{source}: expected a list that can be read, found: {error.strerror}") from error
    why = f" in {len(first)} entries; the first is {first[0].id}: {first[0].problem}" if first else ""
    raise ValueError(f"{source}: expected a list of at least one photo, found none{why}")


def _source_name(source: Path | str) -> str:
    """Prefix for an id that is already used: the name of the folder, or of the list without its suffix."""
    if isinstance(source, str):
        key = PurePosixPath(key_of(source))
        return key.stem if key.suffix.lower() in READERS else key.name
    full = Path(os.path.abspath(source))
    if full.is_dir():
        return full.name
    return full.stem if full.suffix.lower() in READERS else full.parent.name


def _each_once(sources: Iterable[tuple[str, Iterator[_Candidate]]]) -> Iterator[ImageRef | SkippedImage]:
    """Make ids unique and drop repeated files, unless a row of a table gives one a different id."""
    files: dict[bytes, int] = {}  # number of the source of each
    ids: set[bytes] = set()
    for number, (source, candidates) in enumerate(sources):
        named: set[bytes] = set()
        said: set[bytes] = set()
        for image in candidates:
            id, path = printable(image.id), printable(image.address or str(image.path))
            file = _digest(image.real)
            if image.problem:
                yield SkippedImage(id, path, image.problem)
                continue
            row = _row_digest(image)
            before = files.get(file)
            if before is not None and (before != number or row is None or row in said):
                continue
            if image.named and _digest(id) in named:
                yield SkippedImage(id, path, f"its id {id!r} is already used by an earlier line")
                continue
            if before is not None and not image.named:
                yield SkippedImage(
                    id, path, "an earlier line has the same photo; give each line its own id to keep both"
                )
                continue
            files[file] = number
            if image.named:
                named.add(_digest(id))
            if row is not None:
                said.add(row)
            free = _free_id(id, printable(source), ids)
            yield ImageRef(free, image.path, image.metadata, image.address, image.version)


def _row_digest(image: _Candidate) -> bytes | None:
    """Key that identifies the content of a table row; None for a row with only a path."""
    if not image.named and not image.metadata:
        return None
    return _digest(json.dumps([image.real, image.id if image.named else None, dict(image.metadata)], sort_keys=True))


def _free_id(id: str, source: str, taken: set[bytes]) -> str:
    """The id, prefixed with its source if another file has it; the result is added to ``taken``."""
    others = (f"{source}{'' if n == 1 else f'-{n}'}/{id}" for n in itertools.count(1))
    free = next(i for i in itertools.chain([id], others) if _digest(i) not in taken)
    taken.add(_digest(free))
    return free


def _digest(text: str) -> bytes:
    """A 16-byte hash of a text, so that millions of long paths need not be kept in memory."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _walk(root: Path) -> Iterator[_Candidate]:
    """Images under a folder, depth first, by name."""
    visited: set[tuple[int, int]] = set()
    # a stack of half-read folders, not recursion: a path may be deeper than Python's stack
    stack = [_folder(root, "", visited)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, _Candidate):
            yield entry
        else:
            stack.append(_folder(root, entry, visited))


def _folder(root: Path, inside: str, visited: set[tuple[int, int]]) -> Iterator[_Candidate | str]:
    """Images of one folder and, in order among them, its subfolders as paths below ``root`` that end in ``/``."""
    path = root / inside
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        folders, files, links = _names(path)
    except OSError as error:
        yield _Candidate(inside or root.name, path, problem=f"cannot list the folder: {error.strerror}")
        return
    real = os.path.realpath(path)
    for name in sorted(folders | files, key=os.fsencode):
        id = inside + name
        if name in files:
            yield _Candidate(
                id, path / name, os.path.realpath(path / name) if name in links else os.path.join(real, name)
            )
        elif named_as_image(name):
            yield _Candidate(id, path / name, problem="expected a file, found a folder")
        else:
            yield id + "/"


def _names(path: Path) -> tuple[set[str], set[str], set[str]]:
    """Names of the subfolders of a folder, of its images, and of the links among both."""
    folders, files, links = set(), set(), set()
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _leads_to_folder(entry):
                if entry.name.lower() not in LEFT_OUT:
                    folders.add(entry.name)
            elif named_as_image(entry.name) or may_be_photo(entry.path):
                files.add(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
    return folders, files, links


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: if it is named like an image, the decoder reports the reason
        return False


def _listed(source: Path, entries: Iterator[ListedPhoto], folder: str) -> Iterator[_Candidate]:
    """Images of a list; relative paths are relative to its folder, which may be an address of an object store."""
    for entry in entries:
        problem = entry.problem or _not_a_path(entry.path)
        if problem:
            yield _Candidate(f"{source.name}:{entry.line}", source, problem=problem)
            continue
        if folder or in_object_store(entry.path):
            address = joined(folder, entry.path.strip())
            key = key_of(address)
            own = key_of(folder) + "/"
            id = entry.id or (key[len(own) :] if folder and key.startswith(own) else key)
            yield _Candidate(id, Path(key), address, entry.metadata, bool(entry.id), address=address)
            continue
        inside, spelled = find_spelled(source.parent, entry.path, entry.inside)
        path = source.parent / inside
        try:
            real = os.path.realpath(path)
        except ValueError:  # a NUL byte: not a valid path, which the decoder reports
            real = str(path)
        id = (spelled if entry.id == entry.path else entry.id) or _id_from(spelled, source.parent)
        yield _Candidate(id, path, real, entry.metadata, bool(entry.id))


def _not_a_path(text: str) -> str:
    readable = not is_address(text) or in_object_store(text.strip())
    return "" if readable else "expected a path, found an address: photos are not fetched"


def _id_from(path: str, folder: Path) -> str:
    """The path relative to the list's folder if it is inside or was given relative to it, else as given."""
    base = os.path.abspath(folder)
    inside = os.path.isabs(path) and os.path.commonpath([base, os.path.abspath(path)]) == base
    return Path(os.path.relpath(path, base) if inside else os.path.normpath(path)).as_posix()
