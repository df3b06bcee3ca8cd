"""Approximate max-pooling localisation: the box of a feature map that is most similar to a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.tensors import l2

#: Number of boxes that are scored at a time; each needs a vector with a number for each channel of the map.
BLOCK = 4096
#: Step sizes of the refinement in cells, and the number of rounds with each.
STEPS, PASSES = (3, 2, 1), 5


class PowerSums:
    """``(sum over a box of X ** power) ** (1 / power)`` of any box of a map, which approximates its maximum for a large
    power (Tolias, Sicre and Jegou 2015, section 4), from an integral image.

    Activations are divided by the maximum of their channel first, so that the powers stay finite. The sums are float64,
    because differences of large sums are not precise enough for small boxes in float32.

    Args:
        map_: float ``(C, h, w)``, not negative.
        power: a; the paper's 10.
    """

    def __init__(self, map_: Tensor, power: float = 10.0) -> None:
        positive = map_.clamp_min(0).double()
        self.power = power
        self.peaks = positive.amax(dim=(1, 2))
        shares = positive / self.peaks.clamp_min(1e-300)[:, None, None]
        self.sums = torch.zeros(map_.shape[1] + 1, map_.shape[2] + 1, map_.shape[0], dtype=torch.float64)
        self.sums[1:, 1:] = (shares**power).permute(1, 2, 0).cumsum(dim=0).cumsum(dim=1).to(self.sums)
        self.peaks = self.peaks.to(self.sums)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the map."""
        return self.sums.shape[0] - 1, self.sums.shape[1] - 1

    def vectors(self, boxes: Tensor) -> Tensor:
        """float64 ``(N, C)`` of int64 boxes ``(N, 4)``, xyxy in cells, ``x2`` and ``y2`` exclusive."""
        x1, y1, x2, y2 = boxes.unbind(dim=1)
        sums = self.sums[y2, x2] - self.sums[y1, x2] - self.sums[y2, x1] + self.sums[y1, x1]
        return sums.clamp_min(0) ** (1 / self.power) * self.peaks

    def similarities(self, boxes: Tensor, query: Tensor) -> Tensor:
        """Cosines float64 ``(N,)`` of the vectors of boxes and a unit vector ``(C,)``."""
        return torch.cat([l2(self.vectors(some)) @ query for some in boxes.split(BLOCK)])


@dataclass(frozen=True)
class BoxSearch:
    """Search for the box of a map that is most similar to a query.

    Attributes:
        step: Cells between corners of the exhaustive search; the paper's 3.
        stretch: A box is tried when its ratio of sides differs from that of the query by at most this factor; 1.1.
        power: Of :class:`PowerSums`.
    """

    step: int = 3
    stretch: float = 1.1
    power: float = 10.0

    def __post_init__(self) -> None:
        checks.whole("step", self.step)
        if not self.stretch >= 1:
            raise ValueError(f"stretch: expected at least 1, found {self.stretch}")
        checks.positive("power", self.power)

    def best(self, map_: Tensor, query: Tensor, ratio: float) -> tuple[Tensor, float]:
        """The box that is most similar to a query, by exhaustive search on a coarse raster and coordinate refinement.

        Args:
            map_: float ``(C, h, w)``, not negative, on the CPU.
            query: ``(C,)``, the maxima of the query's map.
            ratio: Height over width of the query.

        Returns:
            int64 ``(4,)``, xyxy in cells, ``x2`` and ``y2`` exclusive, and its cosine.
        """
        checks.positive("ratio", ratio)
        sums, unit = PowerSums(map_, self.power), l2(query[None].double())[0]
        boxes = self._candidates(sums.size, ratio)
        scores = sums.similarities(boxes, unit)
        best = int(scores.argmax())
        return self._refined(sums, unit, boxes[best], float(scores[best]))

    def _candidates(self, size: tuple[int, int], ratio: float) -> Tensor:
        """Boxes with corners on the raster and about the aspect ratio of the query; the whole map if there are none."""
        (y1, y2), (x1, x2) = (_intervals(side, self.step) for side in size)
        heights, widths = (y2 - y1)[:, None], (x2 - x1)[None]
        fitting = (torch.log(heights / widths) - math.log(ratio)).abs() <= math.log(self.stretch) + 1e-9
        rows, columns = fitting.nonzero(as_tuple=True)
        if not len(rows):
            return torch.tensor([[0, 0, size[1], size[0]]])
        return torch.stack([x1[columns], y1[rows], x2[columns], y2[rows]], dim=1)

    @staticmethod
    def _refined(sums: PowerSums, unit: Tensor, box: Tensor, score: float) -> tuple[Tensor, float]:
        for step in STEPS:
            for _ in range(PASSES):
                before = score
                for side in range(4):
                    moved = _moved(box, side, step, sums.size)
                    if len(moved):
                        best, number = sums.similarities(moved, unit).max(dim=0)
                        if float(best) > score:
                            box, score = moved[int(number)], float(best)
                if score == before:
                    break
        return box, score


def _intervals(length: int, step: int) -> tuple[Tensor, Tensor]:
    """Starts and ends of all intervals between the points of a raster along a side, including the end of the side."""
    places = torch.unique(torch.tensor([*range(0, length, step), length]))
    first, second = torch.triu_indices(len(places), len(places), offset=1)
    return places[first], places[second]


def _moved(box: Tensor, side: int, step: int, size: tuple[int, int]) -> Tensor:
    """The box with one side moved in either direction, if that is a box inside the map: int64 ``(0 to 2, 4)``."""
    moved = box.repeat(2, 1)
    moved[:, side] += torch.tensor([-step, step])
    x1, y1, x2, y2 = moved.unbind(dim=1)
    return moved[(x1 >= 0) & (y1 >= 0) & (x2 <= size[1]) & (y2 <= size[0]) & (x1 < x2) & (y1 < y2)]
