"""What models give, in words, and how to ask for one kind of it."""

from __future__ import annotations

from objemb.checks import ArtefactMismatchError
from objemb.structures.descriptors import RegionDescriptors
from objemb.structures.local_features import RegionFeatures
from objemb.structures.words import Described, VisualWords

#: What describers give and rows are, for messages.
IN_WORDS: dict[type[object], str] = {
    RegionDescriptors: "vectors of regions",
    RegionFeatures: "local features",
    VisualWords: "visual words",
}


def expect_vectors(who: str, described: Described) -> RegionDescriptors:
    """Rows that are vectors.

    Args:
        who: What needs them, for the message.
        described: What a model has made of an image.

    Raises:
        ArtefactMismatchError: They are visual words.
    """
    if not isinstance(described, RegionDescriptors):
        raise ArtefactMismatchError(
            f"{who}: expected a model of {IN_WORDS[RegionDescriptors]}, found {IN_WORDS[type(described)]} of "
            f"{described.image!r}"
        )
    return described
