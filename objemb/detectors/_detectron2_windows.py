"""Windows of the input of a Detectron2 network: each object at the size on which a head was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.heads.base import Head
from objemb.ops.batches import batched, group_equal
from objemb.ops.windows import OCTAVES, Cut, cut

#: Largest number of windows in a batch.
BATCH = 32


def samples_at_one_size(
    head: Head,
    maps: list[Tensor],
    lower: Callable[[Tensor], list[Tensor]],
    image: Tensor,
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[Tensor],
    side: float,
    multiple: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples of boxes, those of another size than ``side`` from windows, as
    :class:`objemb.describers.one_pass.OnePass` takes them from the photo.

    Args:
        head: The embedding head.
        maps: Its levels for the whole images.
        lower: Computes these levels of windows ``(M, 3, h, w)``.
        image: float ``(B, 3, h, w)``, the network's input.
        sizes: ``(height, width)`` of each image in it, without padding.
        boxes: ``(N, 4)`` of each image, in pixels of the network's input.
        side: Longer side of an object in a window, in pixels.
        multiple: Sides of windows are multiples of this.

    Yields:
        Indices of boxes among all, and their samples for the head.
    """
    everything = torch.cat(list(boxes))
    longer = (everything[:, 2:] - everything[:, :2]).amax(dim=1)
    apart = (longer / side).log2().abs() > OCTAVES
    shared = [b[~a] for b, a in zip(boxes, apart.split([len(b) for b in boxes]), strict=True)]
    numbers = (~apart).nonzero()[:, 0]
    for samples in head.sampled(maps, shared):
        yield numbers[: len(samples)], samples
        numbers = numbers[len(samples) :]
    owners = [number for number, of_image in enumerate(boxes) for _ in range(len(of_image))]
    chosen = apart.nonzero()[:, 0].tolist()
    cuts = [cut(sizes[owners[n]], everything[n].tolist(), side, multiple) for n in chosen]
    for group in group_equal(c.shape for c in cuts):
        for some in batched(group, BATCH):
            pixels = torch.cat([_window(image[owners[chosen[i]]], cuts[i]) for i in some])
            inside = everything.new_tensor([cuts[i].box for i in some])
            for samples in head.sampled(lower(pixels), list(inside[:, None])):
                yield everything.new_tensor([chosen[i] for i in some], dtype=torch.int64), samples


def _window(image: Tensor, of_box: Cut) -> Tensor:
    """``(1, 3, h, w)``; beyond the image zeros, which are the mean colour."""
    left, top, right, bottom = of_box.part
    part = image[None, :, top:bottom, left:right]
    resized = F.interpolate(part, size=of_box.size, mode="bilinear", antialias=True, align_corners=False)
    down, across = (whole - inner for whole, inner in zip(of_box.shape, of_box.size, strict=True))
    return F.pad(resized, (0, across, 0, down))
