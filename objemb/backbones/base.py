"""The contract of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network that turns images into one feature map.

    Built by keyword arguments, among them ``weights``: a name the library knows, a path of a ``.pth`` or
    ``.safetensors`` file, or None for random weights (a model folder fills them in afterwards).
    Always in eval mode: batch norm and dropout never see a difference between one image and many.

    Attributes:
        channels: C of the map.
        stride: Input pixels from one cell to the next, in both directions.
        multiple: Input sides must be a multiple of this (patch size of a transformer; 1 where any side fits).
        smallest: Input sides must be at least this (kernels that do not pad need some room); never below ``stride``.
    """

    channels: int
    stride: int
    multiple: int = 1
    smallest: int

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map of a batch.

        Args:
            pixels: float ``(B, 3, h, w)``, RGB, 0 to 1; the backbone subtracts mean and divides by deviation itself.

        Returns:
            float ``(B, C, h', w')``; cell ``(i, j)`` stands for the input pixels from ``(i, j) * stride`` on, so that
            ``h'`` is ``h / stride`` rounded up or down as the network pads; one that does not pad loses a cell or two.
        """
