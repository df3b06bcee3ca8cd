"""Vectors of photos and boxes from several layers of a network, in several ways of pooling, from one pass a photo."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.cli.programs.analyses.trunks import Trunk
from objemb.extractors.base import device_of
from objemb.images.sources import ImageRef, SkippedImage
from objemb.images.stream import stream_photos
from objemb.ops.arrays import as_tensor
from objemb.ops.boxes import touched_cells
from objemb.ops.grid import Grid, map_grid
from objemb.ops.images import as_batch, input_size, resize
from objemb.ops.normalize import l2
from objemb.ops.rmac import rmac_cells
from objemb.pooling.base import Pooling
from objemb.pooling.gem import Gem
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.structures import Photo

POOLINGS: dict[str, Pooling] = {"mean": Mean(), "max": Max(), "gem": Gem()}


@dataclass(frozen=True, eq=False)
class Wanted:
    """Regions of a photo that belong to one item.

    Attributes:
        item: The item: a photo, an object or a query.
        kind: What to call these regions.
        boxes: float ``(N, 4)``, in original pixels.
        grid: Whether each box is followed by the squares that R-MAC lays within it.
    """

    item: int
    kind: str
    boxes: Tensor
    grid: bool = False


@dataclass(frozen=True)
class View:
    """Which vectors: of a layer by its name, of a kind of regions, in a way of pooling."""

    layer: str
    kind: str
    pooling: str


@dataclass(frozen=True, eq=False)
class LayerRows:
    """Unit vectors float32 ``(R, C)`` on the CPU, and the item int64 ``(R,)`` of each, rising."""

    vectors: Tensor
    items: Tensor

    def of(self, items: range) -> LayerRows:
        """The rows of some items, which are numbered from 0 again."""
        kept = (self.items >= items.start) & (self.items < items.stop)
        return LayerRows(self.vectors[kept], self.items[kept] - items.start)


@torch.inference_mode()
def describe_layers(
    trunk: Trunk,
    refs: Iterable[ImageRef],
    wanted: Callable[[Photo], Sequence[Wanted]],
    views: Iterable[View],
    *,
    size: float,
    multiple: int = 1,
    side: int | None = None,
    workers: int = 2,
    on_skip: Callable[[SkippedImage], None] = lambda skipped: None,
) -> dict[View, LayerRows]:
    """Describe regions of photos; every photo is decoded once and passes the network once.

    A box is every cell that it touches, as R-MAC has it; so is the whole photo.

    Args:
        trunk: A network with its layers.
        refs: The photos.
        wanted: The regions of each.
        views: What to compute of them; of kinds that no photo has there are no rows.
        size: Pixels of the longest side of a photo when it enters the network.
        multiple: Both sides become a multiple of this, and of the network's own.
        side: What the decoder may scale down to.
        workers: Decoding threads.
        on_skip: Called with each photo that cannot be read.
    """
    chosen = list(views)
    rows: dict[View, list[tuple[Tensor, Tensor]]] = {view: [] for view in chosen}
    for photo in stream_photos(refs, workers=workers, side=side):
        if isinstance(photo, SkippedImage):
            on_skip(photo)
            continue
        for view, items, vectors in _describe(trunk, photo, wanted(photo), chosen, size, multiple):
            rows[view].append((items, vectors))
    channels = {layer.name: layer.channels for layer in trunk.layers}
    return {view: _stacked(found, channels[view.layer]) for view, found in rows.items()}


def _describe(
    trunk: Trunk,
    photo: Photo,
    wanted: Sequence[Wanted],
    views: Sequence[View],
    size: float,
    multiple: int,
) -> Iterator[tuple[View, Tensor, Tensor]]:
    """Items and vectors of each view of one photo."""
    network = trunk.network
    shape = input_size(photo.size, size, "longest", max(multiple, network.multiple), network.smallest)
    maps = trunk.maps(as_batch([resize(as_tensor(photo.pixels), shape)], device_of(network)))
    seen = {view.layer for view in views}
    cells = {
        layer.name: _cells_of(
            wanted, map_grid(_raster(maps[layer.name]), shape, photo.size, layer.stride, layer.offset)
        )
        for layer in trunk.layers
        if layer.name in seen
    }
    for (name, pooling), kinds in _together(views).items():
        chosen = [number for number, w in enumerate(wanted) if w.kind in kinds]
        parts = [cells[name][number] for number in chosen]
        if sum(map(len, parts)) == 0:
            continue
        # all kinds at once, for a pooling prepares the map before it sums up the first region
        rectangles = F.pad(torch.cat(parts), (1, 0))
        vectors = l2(POOLINGS[pooling].rectangles(maps[name], rectangles).float()).cpu()
        for number, of_part in zip(chosen, vectors.split([len(p) for p in parts]), strict=True):
            items = torch.full((len(of_part),), wanted[number].item, dtype=torch.int64)
            yield kinds[wanted[number].kind], items, of_part


def _together(views: Sequence[View]) -> Mapping[tuple[str, str], Mapping[str, View]]:
    """By layer and pooling: the views by kind."""
    found: dict[tuple[str, str], dict[str, View]] = defaultdict(dict)
    for view in views:
        found[view.layer, view.pooling][view.kind] = view
    return found


def _raster(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


def _cells_of(wanted: Sequence[Wanted], grid: Grid) -> list[Tensor]:
    """Of each of the wanted int64 ``(M, 4)``: its regions in cells of a map."""
    boxes = [touched_cells(grid.to_cells(w.boxes), (grid.height, grid.width)) for w in wanted]
    return [_with_squares(b) if w.grid else b for w, b in zip(wanted, boxes, strict=True)]


def _with_squares(boxes: Tensor) -> Tensor:
    """Boxes of whole cells, each followed by the squares of R-MAC within it."""
    parts = [boxes[:0]]
    for box in boxes:
        x1, y1, x2, y2 = box.tolist()
        parts += [box[None], rmac_cells(y2 - y1, x2 - x1) + box[[0, 1, 0, 1]]]
    return torch.cat(parts)


def _stacked(rows: Sequence[tuple[Tensor, Tensor]], channels: int) -> LayerRows:
    items = torch.cat([torch.zeros(0, dtype=torch.int64), *(numbers for numbers, _ in rows)])
    vectors = torch.cat([torch.zeros(0, channels), *(found for _, found in rows)])
    order = items.argsort(stable=True)
    return LayerRows(vectors[order], items[order])
