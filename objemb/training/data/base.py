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
from objemb.ops.arrays import as_tensor
from objemb.registry import Plugin
from objemb.structures import Photo, Regions

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Number of a box whose identity is not known.
NO_INSTANCE = -1
#: Key of the identities among the extras of regions.
INSTANCES = "instances"


@dataclass(frozen=True, eq=False)
class Example:
    """A photo with what is known of it.

    Attributes:
        photo: The photo.
        regions: True boxes, xyxy edges in *original* pixels; zero boxes are a normal case. ``labels`` number the
            ``classes`` of the source; ``extras["instances"]``, where identities are known, is int64 ``(N,)`` and
            numbers the ``instances`` of the source, :data:`NO_INSTANCE` for none.
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
        """int64 ``(N,)``: the identity of each box, :data:`NO_INSTANCE` where it is not known."""
        known = self.regions.array(INSTANCES)
        return torch.full((len(self.regions),), NO_INSTANCE) if known is None else as_tensor(known)


class Examples(Plugin, ABC):
    """Numbered examples; a pure function of the number: the same example always, in any process and any order.

    That makes a training run repeatable: what is learned in a step follows from the seed and the number of the step.
    Random sources derive their generator from a seed of their own and the number. Must be picklable, for processes of
    a data loader.

    Attributes:
        instances: Names of the identities that the boxes have; empty where none are known.
        classes: Names of the labels; empty where boxes have none.
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
        """The ``instances`` of example ``number``, int64 ``(N,)``; sources that know them without its pixels say so."""
        return self[number].instances

    def box_count(self) -> int | None:
        """How many boxes all examples have, as far as that is known without their pixels; None where it is not."""
        return None

    def _checked(self, number: int) -> int:
        """``number`` if there is such an example."""
        if isinstance(number, bool) or not 0 <= number < len(self):
            raise IndexError(f"example: expected a number from 0 to {len(self) - 1}, found {number!r}")
        return number


def expect_boxes(name: str, source: Examples) -> None:
    """Raise ``ValueError`` where it is known that no example has a box: nothing would be learned, to the end."""
    if source.box_count() == 0:
        raise ValueError(f"{name}: expected photos with boxes, found none that can be used in all {len(source)} photos")


def source_list(name: str, sources: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Where pictures come from, as a list; raises ``ValueError`` for anything but paths."""
    listed = [sources] if isinstance(sources, (str, Path)) or not isinstance(sources, Sequence) else [*sources]
    for source in listed:
        if not isinstance(source, (str, Path)):
            raise ValueError(
                f"{name}: expected folders, lists or images, found {source!r}; quotes make a name of a number"
            )
    return listed


def read_next(name: str, first: int, count: int, read: Callable[[int], T], path: Callable[[int], str | Path]) -> T:
    """What ``read`` makes of picture ``first``, or of the next one that can be used, the last followed by the first.

    A picture that cannot be used is named in the log, once for each reason.

    Args:
        name: What the pictures are called in the error.
        first: From 0.
        count: How many pictures there are.
        read: Takes a number; raises ``UnreadableImageError`` or ``FrameError`` where a picture cannot be used.
        path: The path of a number.

    Raises:
        ValueError: None of them can be used.
    """
    for step in range(count):
        number = (first + step) % count
        try:
            return read(number)
        except (UnreadableImageError, FrameError) as error:
            reason = error.reason if isinstance(error, UnreadableImageError) else str(error)
            _warn_once(str(path(number)), reason)
    raise ValueError(f"{name}: expected pictures, found {count} of which none can be used")


@functools.lru_cache(maxsize=10_000)
def _warn_once(path: str, reason: str) -> None:
    log.warning("%s: left out: %s", path, reason)


def checked_count(count: int | None, available: int) -> int:
    """How many of ``available`` examples are used: ``count``, or all of them for None."""
    return available if count is None else int(checks.between("count", checks.whole("count", count), 1, available))
