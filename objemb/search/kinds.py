"""Which index belongs to which kind of model: of vectors, or of visual words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objemb import registry
from objemb.aggregators.base import ImageAggregator
from objemb.checks import ArtefactMismatchError
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.structures import RegionDescriptors, VisualWords
from objemb.structures.described import IN_WORDS

#: What models give, by the name of the schema of its rows.
GIVEN: dict[str, type[object]] = {UnitVectors.name: RegionDescriptors, WordRows.name: VisualWords}


def check_model(index: Index, settings: Mapping[str, Any], fingerprint: str) -> None:
    """Raise ``ArtefactMismatchError`` unless a model has made an index.

    Args:
        index: The index.
        settings: Of the model, resolved. A model of vectors for an index of words, or the reverse, is named as such.
        fingerprint: Of the model.
    """
    name = settings["aggregator"]["name"]
    gives, stored = registry.load(ImageAggregator, name).gives, GIVEN[index.schema.name]
    if gives is not stored:
        raise ArtefactMismatchError(
            f"{index.path}: expected a model of {IN_WORDS[stored]}, which this index holds, found the model "
            f"{settings['describer']['name']!r} with the aggregator {name!r}, which gives {IN_WORDS[gives]}"
        )
    index.check_fingerprint(fingerprint)
