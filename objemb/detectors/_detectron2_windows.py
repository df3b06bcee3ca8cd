"""Windows of the input of a Detectron2 network: each object at the size on which a head was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from objemb.heads.base import Head
from objemb.ops.windows import input_windows, of_other_size


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
    :class:`objemb.describers.one_pass.OnePass` with ``windows_from: input`` takes them.

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
    apart = of_other_size(torch.cat(list(boxes)), side)
    shared = [b[~a] for b, a in zip(boxes, apart.split([len(b) for b in boxes]), strict=True)]
    numbers = (~apart).nonzero()[:, 0]
    for samples in head.sampled(maps, shared):
        yield numbers[: len(samples)], samples
        numbers = numbers[len(samples) :]
    for windows in input_windows(image, sizes, boxes, apart.tolist(), side, multiple):
        inside = windows.boxes.to(image.device)
        for samples in head.sampled(lower(windows.pixels), list(inside[:, None])):
            yield torch.tensor(windows.numbers, device=image.device), samples
