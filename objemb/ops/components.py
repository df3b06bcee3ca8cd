"""Connected components of masks."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.types import Int32Array


def largest_component(masks: Tensor) -> Tensor:
    """The largest component of each mask; of equally large ones, the first in reading order.

    Cells are connected if they share a side or a corner (8-connected), as in MATLAB's ``bwconncomp`` and OpenCV's
    ``findContours``, which the authors of SCDA and of class-weighted features use.

    Args:
        masks: bool ``(M, h, w)``.

    Returns:
        bool ``(M, h, w)`` on the same device; an empty mask stays empty.

    Raises:
        ImportError: scipy is not installed.
        ValueError: Another shape.
        TypeError: Not bool.
    """
    checks.shape("masks", masks, (None, None, None))
    if not masks.numel():
        return masks.clone()
    labelled, count = _labelled(masks)
    labels = torch.from_numpy(labelled).long()
    sizes = torch.bincount(labels.flatten(), minlength=count + 1)
    sizes[0] = 0  # label 0 is the outside of the masks
    # labels ascend in reading order, mask after mask, so that the first cell of the largest size decides
    first = sizes[labels].flatten(1).argmax(dim=1, keepdim=True)
    largest = labels.flatten(1).gather(1, first)[:, :, None]
    return ((labels == largest) & (labels > 0)).to(masks.device)


def component_boxes(masks: Tensor) -> Tensor:
    """The boxes of all components of masks; components as for :func:`largest_component`.

    Args:
        masks: bool ``(M, h, w)``.

    Returns:
        int64 ``(N, 4)`` on the CPU, xyxy in cells, ``x2`` and ``y2`` exclusive, mask after mask.

    Raises:
        ImportError: scipy is not installed.
        TypeError: Not bool.
    """
    slices = _ndimage().find_objects(_labelled(masks)[0]) if masks.numel() else []
    boxes = [(x.start, y.start, x.stop, y.stop) for _, y, x in slices]
    return torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)


def _labelled(masks: Tensor) -> tuple[Int32Array, int]:
    """Each cell's component, counted from 1 in reading order, mask after mask, 0 outside; and their number."""
    if masks.dtype != torch.bool:
        raise TypeError(f"masks: expected torch.bool, found {masks.dtype}")
    around = np.zeros((3, 3, 3), np.int64)  # neighbours within a mask, none from one mask to the next
    around[1] = 1
    labelled, count = _ndimage().label(masks.cpu().numpy(), around)
    return labelled, count


def _ndimage() -> ModuleType:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError("connected components need scipy: pip install 'objemb[methods]'") from error
    library: ModuleType = ndimage
    return library
