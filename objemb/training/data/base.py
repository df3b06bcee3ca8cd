"""The contract of a source of examples."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.coco.regions import FrameError
from objemb.images import UnreadableImageError
from objemb.ops.tensors import as_tensor
from objemb.registry import Plugin
from objemb.structures import Photo, Regions

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Number of a box of unknown identity.
NO_INSTANCE = -1
#: Key of the identities among the extras of regions.
INSTANCES = "instances"


@dataclass(frozen=True, eq=False)
class Example:
    """A photo with its annotations.

    Attributes:
        photo: The photo.
        regions: Ground-truth boxes, xyxy edges in *original* pixels; zero boxes are a normal case. ``labels`` are
            numbers of the ``classes`` of the source. ``extras["instances"]``, present if identities are known, is
            int64 ``(N,)``: numbers of the ``instances`` of the source, :data:`NO_INSTANCE` for unknown ones.
    """

    photo: Photo
    regions: Regions

    def __post_init__(self) -> None:
        if self.photo.size != self.regions.size:
            raise ValueError(
                f"Example {self.photo.id}: expected regions in the frame of the photo {self.photo.size}, "
                f"found {self.regions.size}"
            )
        instances = self.regions.extras.get(INSTANCES)
        if instances is not None and (isinstance(instances, tuple) or instances.dtype != np.int64):
            raise TypeError(f"Example {self.photo.id}: expected instances as int64 numbers, found {instances!r}")

    @property
    def instances(self) -> Tensor:
        """int64 ``(N,)``: the identity of each box, :data:`NO_INSTANCE` if it is unknown."""
        known = self.regions.array(INSTANCES)
        return torch.full((len(self.regions),), NO_INSTANCE) if known is None else as_tensor(known)


class Examples(Plugin, ABC):
    """Numbered training examples.

    An example is a pure function of its number: the same in any process and any order. This makes a run reproducible,
    because the examples of a step follow from the seed and the step number. A random source derives its generator from
    its own seed and the number of the example. Sources must be picklable, for the processes of a data loader.

    Attributes:
        instances: Names of the identities of the boxes; empty if none are known.
        classes: Names of the labels; empty if boxes have none.
    """

    kind = "training.data"
    instances: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, number: int) -> Example:
        """Example ``number``, from 0; raises ``IndexError`` beyond the last one."""

    def identities(self, number: int) -> Tensor:
        """The ``instances`` of example ``number``, int64 ``(N,)``; overridden where no pixels are needed for it."""
        return self[number].instances

    def box_count(self) -> int | None:
        """Total number of boxes, or None if it is not known without decoding the photos."""
        return None

    def _checked(self, number: int) -> int:
        """``number``, if it is the number of an example; raises ``IndexError`` otherwise."""
        if isinstance(number, bool) or not 0 <= number < len(self):
            raise IndexError(f"example: expected a number from 0 to {len(self) - 1}, found {number!r}")
        return number


def expect_boxes(name: str, source: Examples) -> None:
    """Raise ``ValueError`` if it is known that no example has a box, since nothing would be learned."""
    if source.box_count() == 0:
        raise ValueError(f"{name}: expected photos with boxes, found no usable box in any of the {len(source)} photos")


def source_list(name: str, sources: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """The sources of pictures as a list; raises ``ValueError`` for anything but paths."""
    listed = [sources] if isinstance(sources, (str, Path)) or not isinstance(sources, Sequence) else [*sources]
    for source in listed:
        if not isinstance(source, (str, Path)):
            raise ValueError(
                f"{name}: expected folders, lists or images, found {source!r}; put a name that is a number in quotes"
            )
    return listed


def read_next(name: str, first: int, count: int, read: Callable[[int], T], path: Callable[[int], str | Path]) -> T:
    """``read(first)``, or the result for the next usable picture; after the last picture follows the first.

    Pictures that cannot be used are logged, once per picture and reason.

    Args:
        name: Name of the pictures in the error message.
        first: Number of the first picture to try, from 0.
        count: Number of pictures.
        read: Reads a picture by its number; raises ``UnreadableImageError`` or ``FrameError`` if it cannot be used.
        path: Path of a picture by its number.

    Raises:
        ValueError: No picture can be used.
    """
    for step in range(count):
        number = (first + step) % count
        try:
            return read(number)
        except (UnreadableImageError, FrameError) as error:
            reason = error.reason if isinstance(error, UnreadableImageError) else str(error)
            _warn_once(str(path(number)), reason)
    raise ValueError(f"{name}: expected usable pictures, found that none of {count} can be used")


@functools.lru_cache(maxsize=10_000)
def _warn_once(path: str, reason: str) -> None:
    log.warning("%s: left out: %s", path, reason)


def checked_count(count: int | None, available: int) -> int:
    """Number of examples to use: ``count``, or all ``available`` ones for None."""
    return available if count is None else int(checks.between("count", checks.whole("count", count), 1, available))
