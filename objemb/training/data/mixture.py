"""A mixture of several sources of examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.tensors import as_tensor
from objemb.registry import plugin
from objemb.structures import NO_LABEL, Photo, Regions
from objemb.training.data.base import INSTANCES, NO_INSTANCE, Example, Examples, checked_count


@plugin
class MixtureExamples(Examples):
    """Examples of several sources, interleaved in fixed proportions.

    ``shares: [3, 1]`` gives three examples of the first source, then one of the second, and so on. Each source is used
    in its own order and repeated from its start when it is exhausted; by default the mixture ends when every example
    has occurred once.

    Identities and classes are the union over all sources; those of the same name are the same. Photos are named
    ``<number of the source>/<name in the source>``, so two sources may have photos of the same name.

    Args:
        data: The sources.
        shares: Number of examples of each source per round; 1 of each by default.
        count: Number of examples, at most that of the mixture.

    Raises:
        ValueError: There is no source, a source is empty, or the number of shares differs from that of the sources.
    """

    def __init__(
        self, *, data: Sequence[Examples], shares: Sequence[int] | None = None, count: int | None = None
    ) -> None:
        self.parts = checks.several("data", data)
        self.shares = tuple(checks.whole("shares", s) for s in (shares or [1] * len(self.parts)))
        if len(self.shares) != len(self.parts):
            raise ValueError(f"shares: expected one per source ({len(self.parts)}), found {len(self.shares)}")
        for number, part in enumerate(self.parts):
            if len(part) == 0:
                raise ValueError(f"data[{number}]: expected at least one example, found none")
        rounds = max(-(-len(part) // share) for part, share in zip(self.parts, self.shares, strict=True))
        self._turns = [(part, turn) for part, share in enumerate(self.shares) for turn in range(share)]
        self._count = checked_count(count, rounds * len(self._turns))
        self.instances = tuple(sorted({name for part in self.parts for name in part.instances}))
        self.classes = tuple(dict.fromkeys(name for part in self.parts for name in part.classes))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Example:
        round_, place = divmod(self._checked(number), len(self._turns))
        part, turn = self._turns[place]
        source = self.parts[part]
        example = source[(round_ * self.shares[part] + turn) % len(source)]
        photo, regions = example.photo, example.regions
        instances = _renumbered(example.instances, source.instances, self.instances, NO_INSTANCE)
        renamed = Regions(
            regions.boxes,
            regions.size,
            regions.scores,
            _renumbered(as_tensor(regions.labels), source.classes, self.classes, NO_LABEL),
            self.classes,
            {**regions.extras, INSTANCES: instances},
        )
        return Example(Photo(f"{part}/{photo.id}", photo.pixels, photo.size, photo.metadata), renamed)

    def box_count(self) -> int | None:
        """See :meth:`Examples.box_count`."""
        counts = [part.box_count() for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def _renumbered(numbers: Tensor, names: Sequence[str], among: Sequence[str], none: int) -> Tensor:
    """Translate int64 numbers of ``names`` into the numbers of the same names in ``among``; ``none`` stays ``none``."""
    table = torch.tensor([*(among.index(name) for name in names), none], dtype=torch.int64)
    return table[torch.where((numbers < 0) | (numbers >= len(names)), len(names), numbers)]
