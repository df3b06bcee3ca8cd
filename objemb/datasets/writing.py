"""Scenes as files: pictures, COCO annotations with instance names, and a retrieval set.

.. code-block:: text

    folder/images/test_000000.jpg ...
    folder/pictures/test_000000.jpg ...  pictures of single products, for queries
    folder/instances_test.json      COCO; annotations have "instance" and "visibility" in addition to COCO's keys
    folder/retrieval_test.json      an evaluation set of images, objects and queries

Queries are of two kinds, given by the attribute ``kind``: objects ``in photo``, with their boxes, and the ``picture``
of a single product, without a box.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypedDict

from PIL import Image

from objemb import checks
from objemb.coco.files import DISTRACTOR
from objemb.coco.masks import encode_mask
from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.datasets.scene import Scene, SceneSource
from objemb.disk import naming, write_whole
from objemb.version import __version__

FORMATS = ("jpg", "png")
JPEG_QUALITY = 92
#: Number of scenes that a process renders at a time.
CHUNK = 32
#: Minimum visible share of objects that are queries.
MIN_QUERY_VISIBILITY = 0.5
#: The kinds of queries.
IN_PHOTO, PICTURE = "in photo", "picture"


class _ObjectRow(TypedDict):
    box: list[float]
    area: int
    segmentation: dict[str, object]
    instance: str
    category: str
    visibility: float


class _SceneRow(TypedDict):
    file: str
    height: int
    width: int
    objects: list[_ObjectRow]


class _SearchedImage(TypedDict):
    file: str
    width: int
    height: int
    instances: list[str]


class _SearchedObject(TypedDict):
    file: str
    box: list[float]
    instance: str


class _Query(TypedDict):
    file: str
    box: list[float] | None
    instance: str
    kind: str


class _Retrieval(TypedDict):
    name: str
    protocol: str
    images: list[_SearchedImage]
    objects: list[_SearchedObject]
    queries: list[_Query]


def write_scenes(
    scenes: SceneSource,
    folder: str | Path,
    split: str,
    *,
    workers: int = 1,
    format: str = "jpg",
    about: Mapping[str, object] | None = None,
    query_every: int | None = None,
    queries_apart: bool = False,
    advance: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Write scenes as a split of a data set.

    Args:
        scenes: The scenes; must be picklable if there are several workers.
        folder: The output folder, created if necessary; files of the same names are replaced.
        split: Part of the file names.
        workers: Number of processes; it does not affect the files.
        format: ``jpg`` or ``png``.
        about: Written to ``info`` of the COCO file.
        query_every: The objects of every ``query_every``-th scene are queries, and so is each picture that the source
            has of an instance of the database; None for no retrieval set.
        queries_apart: Whether query scenes are left out of the database; otherwise they are in it, and hits in the
            query's own photo do not count.
        advance: Called with the number of scenes that were written since the last call.

    Returns:
        ``{"instances", "images", "annotations"}`` and, with queries, ``"retrieval"``, ``"queries"``: paths and
        counts, with queries counted by kind.
    """
    checks.one_of("format", format, FORMATS)
    checks.whole("workers", workers)
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows: list[_SceneRow] = []
    for chunk in _rendered(scenes, root / "images", split, format, workers):
        rows += chunk
        if advance is not None:
            advance(len(chunk))
    instances = root / f"instances_{split}.json"
    info = {"version": __version__, **(about or {})}
    annotations = write_instances(instances, map(_annotated, rows), scenes.categories, info)
    report: dict[str, object] = {"instances": str(instances), "images": len(rows), "annotations": annotations}
    if query_every is not None:
        retrieval = _retrieval(f"{root.name} {split}", rows, query_every, queries_apart)
        retrieval["queries"] += _write_pictures(scenes, retrieval["images"], root, split, format)
        file = root / f"retrieval_{split}.json"
        write_whole(file, json.dumps(retrieval, separators=(",", ":")))
        report["retrieval"] = str(file)
        kinds = Counter(query["kind"] for query in retrieval["queries"])
        report["queries"] = {kind: kinds[kind] for kind in (IN_PHOTO, PICTURE)}
    return report


def _rendered(scenes: SceneSource, folder: Path, split: str, format: str, workers: int) -> Iterator[list[_SceneRow]]:
    """Render and write the pictures; yields their rows, see :func:`_write_scene`, in chunks, in order."""
    chunks = [range(start, min(start + CHUNK, len(scenes))) for start in range(0, len(scenes), CHUNK)]
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield [_write_scene(scenes[n], folder, f"{split}_{n:06d}.{format}") for n in chunk]
        return
    context = multiprocessing.get_context("spawn")  # a forked child may inherit locks held by other threads
    arguments = (scenes, folder, split, format)
    with ProcessPoolExecutor(min(workers, len(chunks)), context, _start_worker, arguments) as pool:
        yield from pool.map(_write_chunk, chunks)


_worker: list[tuple[SceneSource, Path, str, str]] = []


def _start_worker(scenes: SceneSource, folder: Path, split: str, format: str) -> None:
    _worker[:] = [(scenes, folder, split, format)]


def _write_chunk(numbers: range) -> list[_SceneRow]:
    ((scenes, folder, split, format),) = _worker
    return [_write_scene(scenes[n], folder, f"{split}_{n:06d}.{format}") for n in numbers]


def _write_scene(scene: Scene, folder: Path, name: str) -> _SceneRow:
    """Write one picture; returns its row: file name, size and objects."""
    _save(Image.fromarray(scene.pixels), folder / name)
    objects: list[_ObjectRow] = [
        {
            "box": box.tolist(),
            "area": int(mask.sum()),
            "segmentation": encode_mask(mask),
            "instance": instance,
            "category": category,
            "visibility": round(float(visibility), 3),
        }
        for box, mask, instance, category, visibility in zip(
            scene.boxes, scene.masks, scene.instances, scene.categories, scene.visibilities, strict=True
        )
    ]
    return {"file": name, "height": scene.pixels.shape[0], "width": scene.pixels.shape[1], "objects": objects}


def _write_pictures(
    scenes: SceneSource, database: Sequence[_SearchedImage], root: Path, split: str, format: str
) -> list[_Query]:
    """Write the pictures of the instances of the database; returns their queries."""
    queries: list[_Query] = []
    for instance in sorted({name for row in database for name in row["instances"]}):
        for picture in scenes.pictures(instance):
            (root / "pictures").mkdir(exist_ok=True)
            name = f"pictures/{split}_{len(queries):06d}.{format}"
            _save(picture, root / name)
            queries.append({"file": name, "box": None, "instance": instance, "kind": PICTURE})
    return queries


def _save(image: Image.Image, path: Path) -> None:
    with naming(path):
        if path.suffix == ".png":
            image.save(path, compress_level=1)
        else:
            image.save(path, quality=JPEG_QUALITY)


def _annotated(row: _SceneRow) -> AnnotatedImage:
    """The entry of a scene in the COCO file."""
    objects = [
        AnnotatedObject(
            item["box"],
            item["category"],
            {
                "area": item["area"],
                "iscrowd": 0,
                "segmentation": item["segmentation"],
                "instance": item["instance"],
                "visibility": item["visibility"],
            },
        )
        for item in row["objects"]
    ]
    return AnnotatedImage(row["file"], (row["height"], row["width"]), objects)


def _retrieval(name: str, rows: Sequence[_SceneRow], query_every: int, apart: bool) -> _Retrieval:
    """Images, objects and queries; a query has at least one object of its instance in another photo."""
    searched = [row for number, row in enumerate(rows) if number % query_every == 0]
    database = [row for number, row in enumerate(rows) if not apart or number % query_every]
    photos = Counter(instance for row in database for instance in {o["instance"] for o in row["objects"]})
    own = 0 if apart else 1
    return {
        "name": name,
        "protocol": "a query must find the boxes of the same instance in other photos; box = x1, y1, x2, y2",
        "images": [
            {
                "file": f"images/{row['file']}",
                "width": row["width"],
                "height": row["height"],
                "instances": sorted({o["instance"] for o in row["objects"]}),
            }
            for row in database
        ],
        "objects": [_boxed(row, item) for row in database for item in row["objects"]],
        "queries": [
            {**_boxed(row, item), "kind": IN_PHOTO}
            for row in searched
            for item in row["objects"]
            if item["category"] != DISTRACTOR
            and item["visibility"] >= MIN_QUERY_VISIBILITY
            and photos[item["instance"]] > own
        ],
    }


def _boxed(row: _SceneRow, item: _ObjectRow) -> _SearchedObject:
    return {"file": f"images/{row['file']}", "box": item["box"], "instance": item["instance"]}
