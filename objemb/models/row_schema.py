"""The schema of the rows that a model computes for an index."""

from __future__ import annotations

from dataclasses import asdict

from objemb.index.storage.schema import RowSchema
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.models.base import EmbeddingModel


def row_schema(model: EmbeddingModel, dtype: str | None = None) -> RowSchema:
    """The schema of the rows of a model, for ``Index.create``.

    Args:
        model: The model; its parts need not be fitted yet.
        dtype: Number type on disk of vectors, or of residuals that are not binary; None for the default.

    Raises:
        ValueError: The type is unknown, or the residuals are binary and have no type.
    """
    kernel, items = model.kernel, "regions" if model.per_region else "images"
    if kernel is None:
        return UnitVectors(model.dim, dtype or "float32")
    if dtype is None:
        return WordRows(dim=model.dim, items=items, **asdict(kernel))
    if kernel.binary:
        raise ValueError(f"dtype: expected none for visual words of signs, a bit each, found {dtype!r}")
    return WordRows(dim=model.dim, items=items, dtype=dtype, **asdict(kernel))
