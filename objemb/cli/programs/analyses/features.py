"""Vectors of photos and boxes from several layers and poolings of a network, in one forward pass per photo."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.cli.programs.analyses.trunks import Trunk
from objemb.images.sources import ImageRef, SkippedImage
from objemb.images.stream import stream_photos
from objemb.ops.boxes import clip, touched_cells
from objemb.ops.grid import Grid, map_grid
from objemb.ops.images import as_batch, input_size, resize
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import as_tensor, l2
from objemb.pooling.base import Pooling
from objemb.pooling.gem import Gem
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.structures import Photo, RegionDescriptors, Regions
from objemb.types import Float32Array

POOLINGS: dict[str, Pooling] = {"mean": Mean(), "max": Max(), "gem": Gem()}


@dataclass(frozen=True, eq=False)
class RegionRequest:
    """Regions of a photo that belong to one item.

    Attributes:
        item: The item: a photo, an object or a query.
        kind: The kind of these regions, such as ``whole``.
        boxes: float32 ``(N, 4)``, xyxy in original pixels.
        grid: Whether each box is followed by the squares that R-MAC lays within it.
    """

    item: int
    kind: str
    boxes: Float32Array
    grid: bool = False


@dataclass(frozen=True)
class FeatureView:
    """Identifies vectors by the name of their layer, the kind of their regions, and the pooling."""

    layer: str
    kind: str
    pooling: str


@torch.inference_mode()
def describe_layers(
    trunk: Trunk,
    refs: Iterable[ImageRef],
    requests: Callable[[Photo], Sequence[RegionRequest]],
    views: Iterable[FeatureView],
    *,
    size: float,
    multiple: int = 1,
    side: int | None = None,
    workers: int = 2,
    on_skip: Callable[[SkippedImage], None] = lambda skipped: None,
) -> dict[FeatureView, dict[int, RegionDescriptors]]:
    """Describe regions of photos. Every photo is decoded once and passes through the network once.

    A region, the whole photo included, covers every cell that its box touches, as in R-MAC.

    Args:
        trunk: A network with its layers.
        refs: The photos.
        requests: Gives the regions of a photo; at most one request of each kind for an item.
        views: The vectors to compute. Kinds that no photo has give no descriptors.
        size: Longest side of a photo at the network's input, in pixels.
        multiple: Both sides become a multiple of this, and of the network's own multiple.
        side: Side to which the decoder may scale photos down, in pixels; None decodes at full size.
        workers: Number of decoding threads.
        on_skip: Called with each photo that cannot be read.

    Returns:
        For each view, the unit vectors of each item, with the boxes of their cells in original pixels.
    """
    chosen = list(views)
    described: dict[FeatureView, dict[int, RegionDescriptors]] = {view: {} for view in chosen}
    for photo in stream_photos(refs, workers=workers, side=side):
        if isinstance(photo, SkippedImage):
            on_skip(photo)
            continue
        for view, item, descriptors in _describe(trunk, photo, requests(photo), chosen, size, multiple):
            described[view][item] = descriptors
    return described


def _describe(
    trunk: Trunk,
    photo: Photo,
    requests: Sequence[RegionRequest],
    views: Sequence[FeatureView],
    size: float,
    multiple: int,
) -> Iterator[tuple[FeatureView, int, RegionDescriptors]]:
    """The descriptors of each view and item of one photo."""
    network = trunk.network
    shape = input_size(photo.size, size, "longest", max(multiple, network.multiple), network.smallest)
    maps = trunk.maps(as_batch([resize(as_tensor(photo.pixels), shape)], network.device))
    strides = {layer.name: (layer.stride, layer.offset) for layer in trunk.layers}
    grids = {
        name: map_grid((maps[name].shape[2], maps[name].shape[3]), shape, photo.size, *strides[name])
        for name in {view.layer for view in views}
    }
    cells = {name: [_cells_of(request, grid) for request in requests] for name, grid in grids.items()}
    for (name, pooling), kinds in _together(views).items():
        chosen = [number for number, request in enumerate(requests) if request.kind in kinds]
        parts = [cells[name][number] for number in chosen]
        if sum(map(len, parts)) == 0:
            continue
        # all kinds at once, because a pooling prepares the map before it pools the first region
        rectangles = F.pad(torch.cat(parts), (1, 0))
        vectors = l2(POOLINGS[pooling].rectangles(maps[name], rectangles).float())
        for number, part, rows in zip(chosen, parts, vectors.split([len(p) for p in parts]), strict=True):
            boxes = clip(grids[name].to_pixels(part.float()), photo.size)
            request = requests[number]
            yield kinds[request.kind], request.item, RegionDescriptors(photo.id, Regions(boxes, photo.size), rows)


def _together(views: Sequence[FeatureView]) -> Mapping[tuple[str, str], Mapping[str, FeatureView]]:
    """The views by kind, for each layer and pooling."""
    grouped: dict[tuple[str, str], dict[str, FeatureView]] = defaultdict(dict)
    for view in views:
        grouped[view.layer, view.pooling][view.kind] = view
    return grouped


def _cells_of(request: RegionRequest, grid: Grid) -> Tensor:
    """int64 ``(M, 4)``: the regions of a request, xyxy in cells of a map."""
    boxes = touched_cells(grid.to_cells(as_tensor(request.boxes)), (grid.height, grid.width))
    return _with_squares(boxes) if request.grid else boxes


def _with_squares(boxes: Tensor) -> Tensor:
    """Boxes of whole cells, each followed by the squares of R-MAC inside it."""
    parts = [boxes[:0]]
    for box in boxes:
        x1, y1, x2, y2 = box.tolist()
        parts += [box[None], rmac_cells(y2 - y1, x2 - x1) + box[[0, 1, 0, 1]]]
    return torch.cat(parts)
