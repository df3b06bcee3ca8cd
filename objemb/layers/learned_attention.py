"""The contract of parts with a learned attention, for the task ``attend``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from objemb.structures import Photo


class LearnedAttention(ABC):
    """A part of a method that weights regions or local features with a small network. It is trained with classification
    as a proxy task: the class of a photo is predicted from the weighted mean.

    Attributes:
        attention: The network; only it is trained.
    """

    attention: nn.Module

    @property
    @abstractmethod
    def channels(self) -> int:
        """Dimension C of the weighted vectors."""

    @abstractmethod
    def class_layer(self) -> nn.Linear:
        """The backbone's classification layer with C inputs; see ``Backbone.class_layer``."""

    @abstractmethod
    def attended_means(self, photos: Sequence[Photo]) -> Tensor:
        """The weighted means of photos, differentiable in the attention, not in the backbone.

        Args:
            photos: At least one photo, of any sizes.

        Returns:
            float32 ``(B, C)`` on the device of the network.
        """
