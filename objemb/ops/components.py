"""Connected components of masks."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from objemb import checks


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
    if masks.dtype != torch.bool:
        raise TypeError(f"masks: expected torch.bool, found {masks.dtype}")
    if not masks.numel():
        return masks.clone()
    around = torch.zeros(3, 3, 3, dtype=torch.int64)  # neighbours within a mask, none from one mask to the next
    around[1] = 1
    labelled, count = _ndimage().label(masks.cpu().numpy(), around.numpy())
    labels = torch.from_numpy(labelled).long()
    sizes = torch.bincount(labels.flatten(), minlength=count + 1)
    sizes[0] = 0  # label 0 is the outside of the masks
    # labels ascend in reading order, mask after mask, so that the first cell of the largest size decides
    first = sizes[labels].flatten(1).argmax(dim=1, keepdim=True)
    largest = labels.flatten(1).gather(1, first)[:, :, None]
    return ((labels == largest) & (labels > 0)).to(masks.device)


def _ndimage() -> ModuleType:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError("connected components need scipy: pip install 'objemb[methods]'") from error
    library: ModuleType = ndimage
    return library
