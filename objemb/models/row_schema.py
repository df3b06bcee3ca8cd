"""The rows of an index as a model makes them."""

from __future__ import annotations

from dataclasses import asdict

from objemb.index.storage.schema import RowSchema
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.models.base import EmbeddingModel


def row_schema(model: EmbeddingModel, dtype: str | None = None) -> RowSchema:
    """What ``Index.create`` has to be told of the rows of a model.

    Args:
        model: The model; its parts may still have to learn.
        dtype: Number type of vectors, or of residuals that are not signs, on disk; None for what is usual.

    Raises:
        ValueError: There is no such type, or the residuals are signs, which have none.
    """
    kernel, items = model.kernel, "regions" if model.per_region else "images"
    if kernel is None:
        return UnitVectors(model.dim, dtype or "float32")
    if dtype is None:
        return WordRows(dim=model.dim, items=items, **asdict(kernel))
    if kernel.binary:
        raise ValueError(f"dtype: expected none for visual words of signs, a bit each, found {dtype!r}")
    return WordRows(dim=model.dim, items=items, dtype=dtype, **asdict(kernel))
