"""The kinds of a model's output, and a check for one of them."""

from __future__ import annotations

from objemb.checks import ArtefactMismatchError
from objemb.structures.descriptors import RegionDescriptors
from objemb.structures.local_features import RegionFeatures
from objemb.structures.words import Described, VisualWords

#: Names of the kinds of output in messages.
IN_WORDS: dict[type[object], str] = {
    RegionDescriptors: "vectors of regions",
    RegionFeatures: "local features",
    VisualWords: "visual words",
}


def expect_vectors(who: str, described: Described) -> RegionDescriptors:
    """Check that a model's output for an image consists of vectors, and return it.

    Args:
        who: Name of what needs vectors, for the message.
        described: Output of a model for an image.

    Raises:
        ArtefactMismatchError: The output consists of visual words.
    """
    if not isinstance(described, RegionDescriptors):
        raise ArtefactMismatchError(
            f"{who}: expected a model of {IN_WORDS[RegionDescriptors]}, found {IN_WORDS[type(described)]} of "
            f"{described.image!r}"
        )
    return described
