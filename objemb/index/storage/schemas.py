"""The kinds of rows that an index may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objemb import checks
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows

#: The kinds of rows by name.
SCHEMAS: dict[str, type[RowSchema]] = {UnitVectors.name: UnitVectors, WordRows.name: WordRows}


def schema_from_json(data: Mapping[str, Any]) -> RowSchema:
    """A schema from what :meth:`RowSchema.to_json` made. Raises ``ValueError`` or ``TypeError`` for anything else."""
    fields = dict(data)
    name = checks.one_of("schema", fields.pop("name"), tuple(SCHEMAS))
    return SCHEMAS[name](**fields)
