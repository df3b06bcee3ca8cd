"""A data set of single objects, cut out of labelled photos."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb.structures import Photo, Regions
from objemb.training.data.base import INSTANCES, NO_INSTANCE, Example, Examples

#: Key of the numbers of items among the extras of regions.
ITEMS = "items"


class ObjectDataset(Examples):
    """Every box of known identity of a source, cut out as a photo of a single object.

    An item has one region, the whole picture, with its number in the extra ``items``.

    Args:
        source: Photos with boxes. It is read once to list the identities.

    Attributes:
        labels: int64 ``(M,)``: identity of each item, a number of ``instances``.
        photos: int64 ``(M,)``, ascending: number of the example that each item is cut out of.
    """

    def __init__(self, source: Examples) -> None:
        self.source, self.instances = source, source.instances
        known = [source.identities(number) for number in range(len(source))]
        rows = [(identities != NO_INSTANCE).nonzero().flatten() for identities in known]
        nothing = torch.zeros(0, dtype=torch.int64)
        self.labels = torch.cat([nothing, *(i[r] for i, r in zip(known, rows, strict=True))])
        self.photos = torch.arange(len(known)).repeat_interleave(
            torch.tensor([len(r) for r in rows], dtype=torch.int64)
        )
        self._rows = torch.cat([nothing, *rows])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Example:
        example = self.source[int(self.photos[self._checked(number)])]
        row = int(self._rows[number])
        cut = example.photo.part(example.regions[row])
        photo = Photo(f"{cut.id}#{row}", cut.pixels, cut.size, cut.metadata)
        extras = {INSTANCES: self.labels[number : number + 1], ITEMS: torch.tensor([number])}
        return Example(photo, Regions(Regions.whole(photo.size).boxes, photo.size, extras=extras))

    def identities(self, number: int) -> Tensor:
        """See :meth:`Examples.identities`."""
        return self.labels[self._checked(number)][None]

    def partners(self, number: int) -> Tensor:
        """int64 numbers, ascending, of the items of the same instance in other photos."""
        return ((self.labels == self.labels[number]) & (self.photos != self.photos[number])).nonzero().flatten()


def numbers_of_items(example: Example) -> list[int]:
    """The number of an item in a list; empty for an example that is not an item."""
    numbers = example.regions.array(ITEMS)
    return [] if numbers is None else numbers.tolist()
