"""Time of pooling the regions of R-MAC, over that of the network that computes the map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torchvision.ops import roi_pool

from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.ops.rmac import rmac_cells
from objemb.pooling.max import Max

FULL = {"height": 768, "width": 1024, "rounds": 7}
SMALL = {"height": 64, "width": 96, "rounds": 2}


@torch.inference_mode()
def run(sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """Time of pooling over that of the backbone, for three implementations of pooling."""
    torch.manual_seed(seed)
    backbone = TorchvisionCnn(arch="resnet50")
    pixels = torch.rand(1, 3, sizes["height"], sizes["width"])
    maps = backbone(pixels)
    squares = rmac_cells(*maps.shape[2:])
    cells = torch.cat([torch.zeros(len(squares), 1, dtype=torch.int64), squares], dim=1)
    pooling = Max()
    ways: dict[str, Callable[[], Tensor]] = {
        "objemb": lambda: pooling.rectangles(maps, cells),
        "one roi_pool call": lambda: _roi_pool(maps, cells),
        "a Python loop": lambda: _loop(maps, cells),
    }
    expected = _loop(maps, cells)
    times = alternate({"backbone": lambda: backbone(pixels), **ways}, sizes["rounds"])
    for name, pool in ways.items():
        error = float((pool() - expected).abs().max())
        wanted = "<= 0.01" if name == "objemb" else ""
        facts = {"regions": len(cells), "map": list(maps.shape), "largest_error": error}
        yield ratio(
            f"R-MAC pooling ({name}) over its backbone, resnet50", times[name], times["backbone"], wanted, **facts
        )


def _roi_pool(maps: Tensor, cells: Tensor) -> Tensor:
    last = cells - torch.tensor([0, 0, 0, 1, 1])  # the ends of roi_pool are inclusive
    pooled: Tensor = roi_pool(maps, last.float(), output_size=1).flatten(1)
    return pooled


def _loop(maps: Tensor, cells: Tensor) -> Tensor:
    return torch.stack([maps[b, :, y1:y2, x1:x2].amax(dim=(1, 2)) for b, x1, y1, x2, y2 in cells.tolist()])
