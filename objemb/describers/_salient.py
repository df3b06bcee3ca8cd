"""Salient regions: hulls of groups of salient points (Jeong et al., "Regional deep feature aggregation", section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.ops.grid import Grid
from objemb.ops.images import resize
from objemb.ops.kmeans import kmeans, nearest_centres
from objemb.ops.opencv import DETECTORS, convex_hull, key_points
from objemb.ops.tensors import as_tensor
from objemb.structures import Photo, Regions

#: Rows and columns of the masks over the boxes of regions.
MASK_SIDE = 28
#: More groups than this have thousands of unions.
MOST_CLUSTERS = 8


@dataclass(frozen=True)
class SalientRegions:
    """Finds regions by where key points lie that the network finds salient.

    Args:
        key_points: A detector of :data:`objemb.ops.opencv.DETECTORS`, or ``"none"`` to take salient cells always.
        max_points: Maximum number of key points, those of the largest saliency.
        min_points: With fewer key points than this, this number of cells of the largest saliency take their place.
        clusters: L: groups of points; every union of them gives a region, the whole image is one more.
        min_cells: Regions with fewer cells are dropped.
    """

    key_points: str
    max_points: int
    min_points: int
    clusters: int
    min_cells: int

    def __post_init__(self) -> None:
        checks.one_of("key_points", self.key_points, (*DETECTORS, "none"))
        checks.whole("max_points", self.max_points)
        checks.whole("min_points", self.min_points)
        checks.whole("clusters", self.clusters)
        checks.between("clusters", self.clusters, 1, MOST_CLUSTERS)
        checks.whole("min_cells", self.min_cells)

    def find(self, photo: Photo, saliency: Tensor, grid: Grid, shape: tuple[int, int]) -> tuple[Regions, Tensor]:
        """The regions of a photo.

        Args:
            photo: The photo.
            saliency: float ``(h, w)`` on the CPU, per cell.
            grid: Where the cells are.
            shape: ``(height, width)`` at which the photo entered the network, and at which key points are looked for.

        Returns:
            Up to ``2 ** clusters`` regions, the first being the whole image, the others the boxes of hulls in original
            pixels with the hulls as ``masks``, uint8 ``(M, 28, 28)`` over the box; and the cells of each, bool
            ``(M, h * w)``.
        """
        hulls = self.hulls(self.points(photo, saliency, grid, shape))
        cells = in_hulls(cell_centres(grid), hulls)
        kept = [i for i, count in enumerate(cells.sum(dim=1).tolist()) if count >= self.min_cells]
        everywhere = torch.ones(1, cells.shape[1], dtype=torch.bool)
        return _as_regions([hulls[i] for i in kept], photo.size), torch.cat([everywhere, cells[kept]])

    def points(self, photo: Photo, saliency: Tensor, grid: Grid, shape: tuple[int, int]) -> Tensor:
        """Salient points, float32 ``(N, 2)``: x and y in original pixels, the most salient first; perhaps none."""
        if self.key_points != "none":
            scale = torch.tensor([photo.size[1] / shape[1], photo.size[0] / shape[0]])
            points = key_points(resize(as_tensor(photo.pixels), shape), self.key_points) * scale
            if len(points) >= self.min_points:
                return points[_descending(_saliency_at(points, saliency, grid))[: self.max_points]]
        values = saliency.flatten()
        order = _descending(values)[: self.min_points]
        size = torch.tensor([photo.size[1], photo.size[0]])
        return torch.minimum(cell_centres(grid)[order[values[order] > 0]], size)

    def hulls(self, points: Tensor) -> list[Tensor]:
        """The hull of every union of groups of points: single groups first, all points last."""
        if len(points) == 0:
            return []
        centred = points - points.mean(dim=0)  # large coordinates would cost digits
        count = min(self.clusters, len(centred.unique(dim=0)))
        groups = nearest_centres(centred, kmeans(centred, count))[1]
        corners = [convex_hull(points[groups == g]) for g in groups.unique().tolist()]
        # the hull of a union is the hull of the corners of its parts
        return [convex_hull(torch.cat(union)) for union in _unions(corners)]


def cell_centres(grid: Grid) -> Tensor:
    """float32 ``(h * w, 2)``: x and y in original pixels, row by row. The last may lie beyond the image."""
    y = grid.offset[0] + (torch.arange(grid.height) + 0.5) * grid.cell[0]
    x = grid.offset[1] + (torch.arange(grid.width) + 0.5) * grid.cell[1]
    return torch.stack([x.repeat(grid.height), y.repeat_interleave(grid.width)], dim=1)


def _saliency_at(points: Tensor, saliency: Tensor, grid: Grid) -> Tensor:
    """The saliency ``(N,)`` at points in original pixels, interpolated between the centres of cells."""
    extent = torch.tensor([grid.width * grid.cell[1], grid.height * grid.cell[0]])
    corner = torch.tensor([grid.offset[1], grid.offset[0]])
    places = (2 * (points - corner) / extent - 1)[None, None]
    return F.grid_sample(saliency[None, None], places, padding_mode="border", align_corners=False).flatten()


def _descending(values: Tensor) -> Tensor:
    """Positions from the largest value to the smallest; of equal ones the first comes first."""
    return values.sort(descending=True, stable=True).indices


def _unions(parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Every choice of at least one part, small choices first."""
    for count in range(1, len(parts) + 1):
        yield from combinations(parts, count)


def _as_regions(hulls: Sequence[Tensor], size: tuple[int, int]) -> Regions:
    """The whole image, and hulls in original pixels as boxes with masks."""
    boxes = torch.stack([torch.cat([h.amin(dim=0), h.amax(dim=0)]) for h in hulls]) if hulls else torch.zeros(0, 4)
    steps = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE
    raster = torch.stack([steps.repeat(MASK_SIDE), steps.repeat_interleave(MASK_SIDE)], dim=1)
    masks = in_hulls(boxes[:, None, :2] + raster * (boxes[:, None, 2:] - boxes[:, None, :2]), hulls)
    whole = Regions.whole(size)
    full = torch.ones(1, MASK_SIDE, MASK_SIDE, dtype=torch.uint8)
    return Regions(
        torch.cat([as_tensor(whole.boxes), boxes]),
        size,
        extras={"masks": torch.cat([full, masks.view(-1, MASK_SIDE, MASK_SIDE).byte()])},
    )


def in_hulls(points: Tensor, hulls: Sequence[Tensor]) -> Tensor:
    """Which points lie in which hulls, their borders included.

    Args:
        points: float ``(P, 2)``, or ``(M, P, 2)`` where each hull has points of its own.
        hulls: M polygons ``(V, 2)`` as :func:`convex_hull` gives them. Nothing lies in one without area.

    Returns:
        bool ``(M, P)``.
    """
    if not hulls:
        return torch.zeros(0, points.shape[-2], dtype=torch.bool)
    most = max(len(h) for h in hulls)
    # filled up with the first corner: an edge from a corner to itself has every point on its inner side
    corners = torch.stack([torch.cat([h, h[:1].expand(most - len(h), 2)]) for h in hulls]).double()
    edges = corners.roll(-1, dims=1) - corners
    signed_areas = _cross(corners, corners.roll(-1, dims=1)).sum(dim=1)
    offsets = points.double().expand(len(hulls), -1, 2)[:, :, None] - corners[:, None]
    inner = _cross(edges[:, None], offsets) * signed_areas.sign()[:, None, None] >= 0
    return inner.all(dim=2) & (signed_areas != 0)[:, None]


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """z of the cross product of vectors ``(..., 2)``: above 0 where ``second`` turns from x towards y."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
