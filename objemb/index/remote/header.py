"""The header of an index at an address: what the rows are, which model made them, and which generation answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from objemb import checks
from objemb.checks import ArtefactMismatchError, DamagedIndexError, IndexFolderError
from objemb.index.generations import NEXT
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.manifest import schema_from_json
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.stores.base import Store

#: Version of tables and headers; readers of an older objemb refuse newer ones.
FORMAT = 1


@dataclass(frozen=True)
class Header:
    """One generation of an index.

    Attributes:
        generation: Its number.
        schema: The rows.
        fingerprint: Fingerprint of the model that made them.
        model: Description of that model, or None.
        created: When it was created, in ISO 8601.
        calibration: What scores mean, or None.
    """

    generation: int
    schema: UnitVectors
    fingerprint: str
    model: Mapping[str, object] | None
    created: str
    calibration: Calibration | None = None

    def texts(self) -> dict[str, str]:
        """The texts of a store's header that hold this generation."""
        calibration = None if self.calibration is None else self.calibration.to_json()
        about = {
            "format": FORMAT,
            "schema": self.schema.to_json(),
            "fingerprint": self.fingerprint,
            "model": self.model,
            "created": self.created,
            "calibration": calibration,
        }
        return {text_of(self.generation): json.dumps(about)}


#: Name of the text that says which generation answers; the others have theirs, see :mod:`objemb.index.generations`.
CURRENT = "current"
#: Names of the texts that say in which generation writers wait because another one is being published, which number was
#: given last, and which table nothing uses.
CLOSING, LAST, UNUSED = "closing", "last", "unused"


def text_of(generation: int) -> str:
    """Name of the text that describes a generation."""
    return f"generation {generation}"


def read_header(store: Store, name: str = CURRENT, texts: Mapping[str, str] | None = None) -> Header | None:
    """A generation of the index of a store.

    Args:
        store: The store.
        name: Which one: :data:`CURRENT`, ``next`` or ``previous``.
        texts: The texts of its header, if they have been read.

    Returns:
        None if there is none.

    Raises:
        IndexFolderError: There is no index.
        ArtefactMismatchError: A newer objemb wrote it.
        DamagedIndexError: The header is damaged.
    """
    texts = store.header() if texts is None else texts
    if CURRENT not in texts:
        raise IndexFolderError(f"{store.address}: expected an index, found none; 'objemb index' makes one")
    # a store may remove texts after it has stored others: what answers is not the next one any more
    if name not in texts or (name == NEXT and texts[NEXT] == texts[CURRENT]):
        return None
    try:
        number = int(texts[name])
        about = json.loads(texts[text_of(number)])
        if about["format"] > FORMAT:
            raise ArtefactMismatchError(
                f"{store.address}: expected an index of format {FORMAT} or older, found {about['format']}: a newer "
                "version of objemb wrote it"
            )
        schema = schema_from_json(about["schema"])
        made = about["calibration"]
        calibration = None if made is None else Calibration.from_json(made)
        fingerprint, model, created = about["fingerprint"], about["model"], about["created"]
        if not isinstance(schema, UnitVectors) or not isinstance(fingerprint, str) or not isinstance(created, str):
            raise ValueError("expected unit vectors, a fingerprint and a date")
        return Header(number, schema, fingerprint, model, created, calibration)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedIndexError(
            f"{store.address}: expected a header of an index, found a damaged one: {error}"
        ) from error


def checked_schema(address: object, schema: object) -> UnitVectors:
    """The schema of a new index at an address, or an error if the store cannot hold such rows."""
    if not isinstance(schema, UnitVectors):
        raise ArtefactMismatchError(
            f"{address}: expected a model of vectors, since visual words are kept in folders only, found {schema!r}"
        )
    if schema.dtype != "float32":
        raise ValueError(f"{address}: expected vectors of float32 (dtype, --dtype), found {schema.dtype!r}")
    return schema


def with_calibration(header: Header, calibration: Calibration | None) -> Header:
    """The header with another calibration."""
    return replace(header, calibration=calibration)


def checked_fingerprint(fingerprint: object) -> str:
    """A fingerprint that is not empty, or an error."""
    if not isinstance(fingerprint, str) or not fingerprint:
        raise ValueError(f"fingerprint: expected a non-empty string, found {checks.short(fingerprint)}")
    return fingerprint
