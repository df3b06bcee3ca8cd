"""What the task ``attend`` asks of whatever has an attention to learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from objemb.structures import Photo


class LearnedAttention(ABC):
    """A part of a method that weighs regions or local features by a small network, learned with classification as a
    proxy: the weighted mean of what it weighs has to tell what a photo shows.

    Attributes:
        attention: The network, which alone is learned.
    """

    attention: nn.Module

    @property
    @abstractmethod
    def channels(self) -> int:
        """Length C of what is weighed."""

    @abstractmethod
    def class_layer(self) -> nn.Linear:
        """The backbone's own layer of classes, which takes C numbers; see ``Backbone.class_layer``."""

    @abstractmethod
    def attended_means(self, photos: Sequence[Photo]) -> Tensor:
        """The mean of what is weighed times its weights; a gradient reaches the attention, not the backbone.

        Args:
            photos: At least one, of any sizes.

        Returns:
            float32 ``(B, C)`` on the device of the network.
        """
