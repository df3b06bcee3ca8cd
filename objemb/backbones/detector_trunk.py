"""A feature map of a detector, pooled like that of a classification network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from objemb import checks
from objemb.backbones._offset import offset
from objemb.backbones._probe import meta_copy, surplus
from objemb.backbones.base import Backbone
from objemb.registry import plugin


@runtime_checkable
class Levelled(Protocol):
    """The required interface of a detector; ``objemb.detectors.capabilities.NetworkDetector`` has it."""

    @property
    def mean(self) -> Tensor:
        """``(3,)``, RGB, 0 to 1."""

    @property
    def std(self) -> Tensor:
        """``(3,)``, RGB, 0 to 1."""

    def levels(self) -> dict[str, tuple[int, int]]:
        """Channels and stride by name: of the pyramid, then of the trunk, each with ascending strides."""

    def normalised(self, pixels: Tensor) -> object:
        """Images ``(B, 3, h, w)``, RGB, 0 to 1, as input of :meth:`maps`."""

    def maps(self, batch: Any, names: Sequence[str]) -> dict[str, Tensor]:
        """Maps by name."""


@plugin
class DetectorTrunk(Backbone):
    """One of the maps of a detector, to pool its features from any boxes.

    Images enter at the size given by an extractor, not at the detector's own; other outputs, such as the pyramid above
    a trunk, are discarded. Chen, Davis and Lim ("An analysis of object embeddings for image retrieval", 2019) compare
    such features with those of a classification network of the same architecture.

    Args:
        detector: A network, configured with its own weights.
        level: ``trunk16`` or ``trunk32`` for a map of the classification network below, or the detector's name of a
            level of the pyramid (``0``, ``p2`` ...); by default the coarsest map of the trunk.

    Attributes:
        level: The level.
        multiple: The coarsest stride of all levels, because pyramids need sides that are multiples of it.
        stages: Levels of the same kind, trunk or pyramid, up to this one.

    Raises:
        TypeError: The detector is not a network, such as stored boxes.
        ValueError: The detector does not have the level.
    """

    detector: Levelled
    level: str

    def __init__(self, *, detector: Levelled, level: str | None = None) -> None:
        super().__init__()
        if not isinstance(detector, Levelled):
            raise TypeError(f"detector: expected a network such as torchvision_rcnn, found {type(detector).__name__}")
        levels = detector.levels()
        self.level = list(levels)[-1] if level is None else checks.one_of("level", str(level), tuple(levels))
        self.detector = detector
        self.normalise_by(detector.mean.tolist(), detector.std.tolist(), saved=False)
        self.channels, self.stride = levels[self.level]
        self.multiple = self.smallest = max(stride for _, stride in levels.values())
        self.stages = _finer(levels, self.level)
        empty = meta_copy(self)
        self.offset = offset(empty, self.stride, 4 * self.smallest)
        self.surplus = surplus(empty, self.stride, self.multiple, 4 * self.smallest)

    def source_detector(self) -> nn.Module | None:
        """See :meth:`Backbone.source_detector`."""
        return self.get_submodule("detector")

    def forward(self, pixels: Tensor) -> Tensor:
        """Feature map ``(B, channels, h', w')`` of images ``(B, 3, h, w)``, RGB, 0 to 1."""
        return self.detector.maps(self.detector.normalised(pixels), (self.level,))[self.level]

    def maps(self, pixels: Tensor, coarsest: int | None = None) -> dict[int, Tensor]:
        """See :meth:`Backbone.maps`."""
        ends = self._ends(coarsest)
        maps = self.detector.maps(self.detector.normalised(pixels), tuple(ends.values()))
        return {stride: maps[name] for stride, name in ends.items()}


def _finer(levels: dict[str, tuple[int, int]], level: str) -> dict[int, tuple[str, int]]:
    """Name and channels of a level and of the finer levels of its kind, by ascending stride."""
    names = list(levels)
    stages: dict[int, tuple[str, int]] = {}
    for name in reversed(names[: names.index(level) + 1]):
        channels, stride = levels[name]
        if stages and stride >= min(stages):
            break
        stages[stride] = (name, channels)
    return dict(sorted(stages.items()))
