"""Non-maximum suppression of which only the first boxes are used, for traced programs."""

from __future__ import annotations

import torchvision.ops
from torch import Tensor, nn

from objemb import checks


class FirstKept(nn.Module):
    """Non-maximum suppression for a program that uses the first ``most`` boxes at the most.

    PyTorch suppresses among all boxes. A runtime may stop at ``most``, with the same result, since suppression goes
    from the best box to the worst and never takes one back: :func:`objemb.export.writers.write_graph` tells it so.

    Args:
        max_iou: A box whose IoU with a better one exceeds this is dropped.
        most: Number of boxes that the program uses.
    """

    def __init__(self, max_iou: float, most: int) -> None:
        super().__init__()
        self.max_iou, self.most = max_iou, checks.whole("most", most, 0)

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """int64 indices of the boxes that are kept, best first: all of them, or at least the first ``most``.

        Args:
            boxes: float32 ``(N, 4)``.
            scores: float32 ``(N,)``.
        """
        kept: Tensor = torchvision.ops.nms(boxes, scores, self.max_iou)
        return kept
