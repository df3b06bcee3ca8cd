"""Checks that an index belongs to a model, and to its kind: vectors or visual words."""

from __future__ import annotations

from objemb import registry
from objemb.card import ModelCard
from objemb.checks import ArtefactMismatchError
from objemb.index.collection import ImageCollection
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.runtimes.exported import EXPORT
from objemb.structures import RegionDescriptors, VisualWords
from objemb.structures.described import IN_WORDS
from objemb.types import Settings

#: Output of models, by the name of the schema of its rows.
GIVEN: dict[str, type[object]] = {UnitVectors.name: RegionDescriptors, WordRows.name: VisualWords}


def check_model(index: ImageCollection, gives: type[object], settings: Settings, fingerprint: str) -> None:
    """Raise ``ArtefactMismatchError`` unless an index was made with a model.

    Args:
        index: The index.
        gives: Type of the model's rows; a model of another kind than the index is reported as such.
        settings: Resolved settings of the model.
        fingerprint: Fingerprint of the model.
    """
    stored = GIVEN[index.schema.name]
    if gives is not stored:
        raise ArtefactMismatchError(
            f"{index.address}: expected a model of {IN_WORDS[stored]}, which this index holds, found the model "
            f"{settings['describer']['name']!r} with the aggregator {settings['aggregator']['name']!r}, which gives "
            f"{IN_WORDS[gives]}"
        )
    index.check_fingerprint(fingerprint)


def gives_of(card: ModelCard) -> type[object]:
    """What the rows of a model are, by its card: of exported models vectors, of others what the aggregator says."""
    if EXPORT in card:
        return RegionDescriptors

    from objemb.aggregators.base import ImageAggregator  # here, since it needs PyTorch

    return registry.load(ImageAggregator, card["settings"]["aggregator"]["name"]).gives
