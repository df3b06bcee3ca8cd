"""The JSON documents of answers, from what the library returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from objemb.index.collection import ImageCollection
from objemb.models.base import EmbeddingModel
from objemb.serve.limits import MAX_BOXES, MAX_FILTER, MAX_HITS, MAX_LISTED, MAX_VIEWS, Limits
from objemb.serve.photos import not_indexed
from objemb.structures import RegionDescriptors, Regions
from objemb.structures.fields import metadata_to_json
from objemb.text import json_text
from objemb.version import __version__


def json_line(document: object) -> bytes:
    """A document as ``objemb ... --json`` prints it where stdout is UTF-8."""
    return (json_text(document) + "\n").encode()


def detected(image: str, regions: Regions) -> bytes:
    """The objects of a photo: ``{"image", "size", "objects"}``."""
    return json_line({"image": image, "size": list(regions.size), "objects": _objects(regions)})


def described(image: str, rows: RegionDescriptors) -> bytes:
    """The vectors of the regions of a photo: ``{"image", "size", "regions"}``."""
    vectors = rows.vectors.astype(np.float32).tolist()
    regions = [{**one, "vector": vector} for one, vector in zip(_objects(rows.regions), vectors, strict=True)]
    return json_line({"image": image, "size": list(rows.regions.size), "regions": regions})


def stored(index: ImageCollection, image: str, *, has_photo: bool) -> bytes:
    """What is stored of an indexed image.

    Args:
        index: The index.
        image: The id.
        has_photo: Whether its photo can be shown.

    Raises:
        Problem: No image of this id is in the index.
    """
    rows = index.get(image)
    if rows is None:
        raise not_indexed()
    return json_line(
        {
            "image": image,
            "size": list(rows.regions.size),
            "regions": _objects(rows.regions),
            "metadata": metadata_to_json(rows.metadata),
            "photo": has_photo,
        }
    )


def listed(index: ImageCollection, start: int, limit: int, where: str | None) -> bytes:
    """Ids of indexed images, in the order in which they were added, or of those that match a filter.

    Raises:
        WhereError: The filter is not valid.
    """
    if where is None:
        total = len(index)
        images = [stored.id for stored in islice(index.images(start), limit)]
    else:
        matching = index.find(where)
        total, images = len(matching), matching[start : start + limit]
    end = start + len(images)
    return json_line({"images": images, "total": total, "next": end if end < total else None})


def info(
    index: ImageCollection,
    model: EmbeddingModel,
    limits: Limits,
    *,
    refused: str | None,
    rerankers: Sequence[str],
    writable: bool,
) -> bytes:
    """The index, its model, and what requests may ask for; no path of this machine.

    Args:
        index, model, limits: Those of the service.
        refused: Why a newer publication is not served; None if the newest one is.
        rerankers: Re-rankers that requests may name.
        writable: Whether requests may change the index.
    """
    facts = index.info()
    return json_line(
        {
            "version": __version__,
            "index": {
                "name": index.name,
                "generation": index.generation,
                "refused": refused,
                "columns": index.columns(),
                "labels": index.labels(),
                "calibrated": index.calibration is not None,
                **{name: facts[name] for name in ("images", "regions", "bytes", "updated", "approximate")},
            },
            "model": {
                "method": model.settings["describer"]["name"],
                "fingerprint": model.fingerprint,
                "dim": model.dim,
                "detector": model.has_detector,
                "per_region": model.per_region,
                "untrained": model.untrained,
                "rerankers": [step.registry_name for step in model.rerankers],
            },
            "rerankers": list(rerankers),
            "writable": writable,
            "limits": _limits(limits),
        }
    )


def _limits(limits: Limits) -> Mapping[str, int]:
    return {
        **{"body_bytes": limits.body_bytes, "pixels": limits.pixels, "boxes": MAX_BOXES},
        **{"views": MAX_VIEWS, "k": MAX_HITS, "where": MAX_FILTER, "page": MAX_LISTED},
    }


def _objects(regions: Regions) -> list[dict[str, object]]:
    rows = zip(regions.boxes.tolist(), regions.scores.tolist(), regions.label_names, strict=True)
    return [{"box": box, "score": score, "label": label} for box, score, label in rows]
