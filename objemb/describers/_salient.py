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

#: Side of the masks over the boxes of regions.
MASK_SIDE = 28
#: Largest number of groups; more would have thousands of unions.
MAX_CLUSTERS = 8


@dataclass(frozen=True)
class SalientRegions:
    """Finds regions from groups of salient key points.

    Args:
        key_points: A detector of :data:`objemb.ops.opencv.DETECTORS`, or ``"none"`` to always use salient cells.
        max_points: Maximum number of key points; the most salient are kept.
        min_points: With fewer key points than this, the same number of the most salient cells is used instead.
        clusters: L, the number of groups of points; every union of groups gives a region, besides the whole image.
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
        checks.between("clusters", self.clusters, 1, MAX_CLUSTERS)
        checks.whole("min_cells", self.min_cells)

    def find(self, photo: Photo, saliency: Tensor, grid: Grid, shape: tuple[int, int]) -> tuple[Regions, Tensor]:
        """The regions of a photo.

        Args:
            photo: The photo.
            saliency: float ``(h, w)`` on the CPU, the saliency of each cell.
            grid: The positions of the cells.
            shape: ``(height, width)`` of the network's input, the size at which key points are detected.

        Returns:
            Up to ``2 ** clusters`` regions: first the whole image, then the boxes of hulls in original pixels, with the
            hulls as ``masks``, uint8 ``(M, 28, 28)`` over the box. And the cells of each region, bool ``(M, h * w)``.
        """
        hulls = self.hulls(self.points(photo, saliency, grid, shape))
        cells = in_hulls(cell_centres(grid), hulls)
        kept = [i for i, count in enumerate(cells.sum(dim=1).tolist()) if count >= self.min_cells]
        everywhere = torch.ones(1, cells.shape[1], dtype=torch.bool)
        return _as_regions([hulls[i] for i in kept], photo.size), torch.cat([everywhere, cells[kept]])

    def points(self, photo: Photo, saliency: Tensor, grid: Grid, shape: tuple[int, int]) -> Tensor:
        """Salient points, float32 ``(N, 2)``: x and y in original pixels, the most salient first; N may be 0."""
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
        centred = points - points.mean(dim=0)  # for precision, since coordinates may be large
        count = min(self.clusters, len(centred.unique(dim=0)))
        groups = nearest_centres(centred, kmeans(centred, count))[1]
        corners = [convex_hull(points[groups == g]) for g in groups.unique().tolist()]
        # the hull of a union is the hull of the corners of its parts
        return [convex_hull(torch.cat(union)) for union in _unions(corners)]


def cell_centres(grid: Grid) -> Tensor:
    """float32 ``(h * w, 2)``: x and y in original pixels, row by row. The last ones may be outside the image."""
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
    """Indices that sort values in descending order; the sort is stable."""
    return values.sort(descending=True, stable=True).indices


def _unions(parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """All non-empty subsets of the parts, small ones first."""
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
    """Which points are inside which hulls, borders included.

    Args:
        points: float ``(P, 2)``, or ``(M, P, 2)`` with separate points for each hull.
        hulls: M polygons ``(V, 2)`` from :func:`convex_hull`. No point is inside a hull without area.

    Returns:
        bool ``(M, P)``.
    """
    if not hulls:
        return torch.zeros(0, points.shape[-2], dtype=torch.bool)
    most = max(len(h) for h in hulls)
    # padded with the first corner: every point is on the inner side of an edge from a corner to itself
    corners = torch.stack([torch.cat([h, h[:1].expand(most - len(h), 2)]) for h in hulls]).double()
    edges = corners.roll(-1, dims=1) - corners
    signed_areas = _cross(corners, corners.roll(-1, dims=1)).sum(dim=1)
    offsets = points.double().expand(len(hulls), -1, 2)[:, :, None] - corners[:, None]
    inner = _cross(edges[:, None], offsets) * signed_areas.sign()[:, None, None] >= 0
    return inner.all(dim=2) & (signed_areas != 0)[:, None]


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """z of the cross product of vectors ``(..., 2)``, positive if the rotation from ``first`` to ``second`` is from x
    towards y."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
