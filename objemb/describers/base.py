"""The contract of describers; :mod:`objemb.describers.capabilities` has those of additional capabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar, Generic, Self, TypeAlias, TypeVar, final

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.base import Detector
from objemb.extractors.base import Extractor, Features
from objemb.layers.fitted import WithFittedParts
from objemb.layers.learned_attention import LearnedAttention
from objemb.layers.whitening import Whitening
from objemb.regions.base import RegionSource
from objemb.registry import Plugin
from objemb.structures import Photo, RegionDescriptors, RegionFeatures, Regions

#: From the vectors ``(R, D)`` of the regions of a photo, the first of which is the whole image, and their scores
#: ``(R,)``, to the unit vector ``(D,)`` that is the only row of the photo.
RowOfRegions: TypeAlias = Callable[[Tensor, Tensor], Tensor]
#: The result of describing a photo.
Computed = TypeVar("Computed", RegionDescriptors, RegionFeatures)


class PhotoDescriber(WithFittedParts, Plugin, ABC, Generic[Computed]):
    """Finds and describes regions of photos; the common base of :class:`Describer` and :class:`FeatureDescriber`.

    Args:
        regions: Chooses the regions; None for a method that finds them itself.
        backbone: Computes feature maps; None for a method without a backbone.

    Attributes:
        gives: The type of the result for a photo: :class:`~objemb.structures.RegionDescriptors` or
            :class:`~objemb.structures.RegionFeatures`.
        regions, backbone: As given.
        scales: Scale factors of a photo, in the order of the backbone's inputs.
    """

    kind = "describers"
    gives: ClassVar[type[RegionDescriptors] | type[RegionFeatures]]

    regions: RegionSource | None
    backbone: Backbone | None
    scales: tuple[float, ...] = (1.0,)

    def __init__(self, *, regions: RegionSource | None = None, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.regions = regions
        self.backbone = backbone

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""

    @property
    def detector(self) -> Detector | None:
        """The detector whose boxes or proposals are described; None for a method without one."""
        return None if self.regions is None else self.regions.detector

    @abstractmethod
    def decode_side(self) -> int | None:
        """The longest side in pixels that is of use, or None for full resolution; see ``Extractor.decode_side``."""

    @abstractmethod
    def describe(self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> list[Computed]:
        """Describe a batch of photos of any sizes.

        Args:
            photos: The batch; zero photos give an empty list.
            regions: For each photo, the boxes to describe (a query box, ground truth), or None to let the describer
                find regions. No whole-image region is added to given boxes.

        Returns:
            For each photo, its regions with their descriptors or features. If the describer chose the regions, region 0
            is the whole image.

        Raises:
            NotFittedError: A part has not been fitted yet.
            ValueError: There is not one item in ``regions`` per photo, or regions belong to an image of another size.
        """

    def limited(self, max_regions: int) -> Self:
        """This describer with at most ``max_regions`` boxes of its detector per photo, in addition to the whole image.

        Everything else is shared with this one. See :meth:`objemb.regions.base.RegionSource.limited`.
        """
        return self if self.regions is None else self._with(regions=self.regions.limited(max_regions))

    def learned_attention(self) -> LearnedAttention:
        """The part whose attention the task ``attend`` trains.

        Raises:
            TypeError: The describer has no such part.
        """
        raise TypeError(
            "describer: expected one with learned attention (regional_attention, or local with attentive), found "
            f"{self._label}"
        )

    @final
    @torch.no_grad()
    def samples(self, part: str, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """The vectors of some photos on which a part is fitted.

        Args:
            part: A key of :meth:`fitted_parts`; those before it have been fitted.
            photos: As for :meth:`describe`.
            regions: As for :meth:`describe`.

        Returns:
            float32 ``(N, D)`` on the CPU, in the order of the photos; N may be 0.

        Raises:
            NotImplementedError: The describer has no vectors for such a part.
        """
        return torch.cat([v.float().cpu() for v in self._samples(part, photos, checked_given(photos, regions))])

    def _samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Tensor]:
        """The vectors of :meth:`samples` in at least one block ``(n, D)``, on any device; no gradient is recorded.

        Args:
            part: The part.
            photos: The photos; there may be none.
            given: As for :meth:`_describe`.
        """
        raise NotImplementedError(f"{self._label}: expected no part to be fitted on vectors, found {part!r}")

    @property
    def _label(self) -> str:
        """The name in settings, for messages; the name of the class if it is not a plug-in."""
        return self.registry_name or type(self).__name__


class DescriptionProgram(nn.Module, ABC):
    """A describer as functions of tensors, for exporters, which cannot follow photos and regions.

    What a photo gives are the tensors of the graph ``photos`` of :mod:`objemb.runtimes.exported`.

    Attributes:
        max_detections: K, the number of rows for boxes; 0 where none are found.
        min_score: Boxes with lower scores are left out.
        covers: See :class:`objemb.regions.base.RegionProgram`.
        keeps_scale: Whether there is :meth:`part`.
    """

    keeps_scale: bool = False
    max_detections: int
    min_score: float
    covers: bool

    @abstractmethod
    def photos(self, photos: Tensor) -> dict[str, Tensor]:
        """Boxes and vectors of photos of one size.

        Args:
            photos: uint8 ``(B, H, W, 3)``, RGB.

        Returns:
            Tensors by name.
        """

    @abstractmethod
    def boxes(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """Vectors of given boxes.

        Args:
            photo: uint8 ``(H, W, 3)``, RGB.
            boxes: float32 ``(N, 4)`` in pixels of the photo, N at least 1.

        Returns:
            float32 ``(N, dim)``, whitened unit vectors.
        """

    def part(self, part: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The vector of a part of a photo, described as a photo, which enters the network at the scale of its photo.

        Args:
            part: uint8 ``(H, W, 3)``, RGB.
            rows, columns: As long as the whole photo is high and wide, of any value: exporters follow lengths of
                tensors through a network, but no numbers in them.

        Returns:
            float32 ``(1, dim)``, a whitened unit vector.

        Raises:
            TypeError: Its network takes parts of one size alone.
        """
        raise TypeError(
            "export: expected a describer of maps, whose parts keep their scale, found one that resizes them"
        )


class Describer(PhotoDescriber[RegionDescriptors]):
    """Finds regions of photos and computes a unit vector for each.

    A plug-in computes both in :meth:`_describe`. The steps that all describers share are done here: given boxes are
    checked, vectors are whitened and moved to the CPU. A describer stays in eval mode, see
    :class:`~objemb.layers.frozen.Frozen`; a training task sets only the part that it trains to train mode.

    Args:
        regions: Chooses the regions; None for a method that finds them itself.
        backbone: Computes the feature maps; None for a method without a backbone.
        extractor: Brings the pixels of a box to the backbone; None for a method that does this itself.
        scales: Factors on the extractor's input size.

    Attributes:
        regions, backbone, extractor, scales: As given.
        whitening: Applied to the unit vectors, which are then normalised again; None for no whitening. See
            :meth:`whitened`.

    Raises:
        ValueError: There are no scales, or scales that are not positive.
    """

    gives = RegionDescriptors
    #: Why no exporter can follow it, for :meth:`program`.
    not_exported: ClassVar[str] = "which has no program for exporters"

    extractor: Extractor | None
    whitening: Whitening | None

    def __init__(
        self,
        *,
        regions: RegionSource | None = None,
        backbone: Backbone | None = None,
        extractor: Extractor | None = None,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(regions=regions, backbone=backbone)
        self.extractor = extractor
        self.scales = tuple(checks.positive("scales", s) for s in checks.several("scales", scales))
        self.whitening = None

    @property
    @abstractmethod
    def raw_dim(self) -> int:
        """Length of the vectors before whitening."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.raw_dim if self.whitening is None else self.whitening.dim

    def decode_side(self) -> int | None:
        """The longest side in pixels that the describer can use, or None for full resolution; see
        ``Extractor.decode_side``. A detector may need more pixels than the pooled map.
        """
        side = None if self.extractor is None else self.extractor.decode_side(max(self.scales))
        return side if side is None or self.regions is None else max(side, self.regions.decode_side())

    @final
    @torch.no_grad()  # not inference mode: its tensors could not be the targets of a loss
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """See :meth:`PhotoDescriber.describe`: regions with float32 vectors ``(N, dim)``."""
        given = checked_given(photos, regions)
        if not photos:
            return []
        described, vectors = self._describe(photos, given)
        rows = list(vectors.split([len(r) for r in described]))
        if self.whitening is not None:  # of one photo at a time: a product of more rows rounds in another way
            rows = [self.whitening(of_photo) for of_photo in rows]
        rows = [of_photo.float().cpu() for of_photo in rows]
        return [
            RegionDescriptors(photo.id, of_photo, vectors_of_photo, photo.metadata)
            for photo, of_photo, vectors_of_photo in zip(photos, described, rows, strict=True)
        ]

    @abstractmethod
    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """Regions and vectors of a batch, for :meth:`describe`; no gradient is recorded.

        Args:
            photos: At least one photo.
            given: For each photo, the boxes to describe, or None to find its regions.

        Returns:
            For each photo, its regions: the given ones in their order, or those that were found, starting with the
            whole image. And the unit vectors of all regions of all photos in this order, before whitening, float
            ``(sum of N, raw_dim)``, on any device.
        """

    def pass_shapes(self, photo: Photo, regions: Regions) -> Hashable:
        """What decides the shapes of the tensors with which given regions of a photo are described: photos for which it
        is equal share forward passes in :meth:`describe`. By default the boxes and the sizes of the photo.

        Args:
            photo: The photo.
            regions: The regions.
        """
        return photo.size, photo.pixels.shape, regions.boxes.tobytes()

    def queries_in_context(self, per_region: bool) -> bool:
        """Whether a query box is described as a region of its photo, as ``describe`` does with given boxes; otherwise
        it is cut out and described as a separate image.

        The vectors of query boxes have to be of the same kind as the rows of an index: vectors of regions if regions
        are indexed, or of images if the regions of an image are summed.

        Args:
            per_region: Whether the aggregator gives a row for every region.
        """
        return per_region

    def whitened(self, whitening: Whitening | None) -> Self:
        """This describer with another whitening, or with none. Everything else is shared with this one."""
        return self._with(whitening=whitening)

    def with_extractor(self, extractor: Extractor) -> Self:
        """This describer with another extractor. Everything else is shared with this one."""
        return self._with(extractor=extractor)

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Self:
        """The describer for parts cut out of photos: they enter the network at the scale that they have in their photo.

        Everything but the extractor is shared. A describer without an extractor, whose network resizes every image to
        the same size, is returned unchanged.

        Args:
            part: ``(height, width)`` of the part in original pixels.
            whole: ``(height, width)`` of the photo in original pixels.
        """
        return self if self.extractor is None else self.with_extractor(self.extractor.for_part(part, whole))

    def program(self, max_detections: int, row: RowOfRegions | None = None) -> DescriptionProgram:
        """This describer for exporters; it shares the layers.

        Args:
            max_detections: At most so many boxes per photo; its regions may be content with fewer. Where a photo has
                one row, its regions are not limited.
            row: Makes the row of a photo; None where every region is a row.

        Raises:
            TypeError: There is none for this describer, or for its parts.
            ValueError: Its settings say what no program can do.
        """
        raise TypeError(f"describer: expected one that can be exported, found {self._label}, {self.not_exported}")

    def needed_backbone(self, who: str) -> Backbone:
        """The backbone.

        Args:
            who: What needs it, for the message.

        Raises:
            ValueError: There is none.
        """
        if self.backbone is None:
            raise ValueError(
                f"{who}: expected a describer with a backbone, such as pooled_regions, found {self._label}"
            )
        return self.backbone

    def features(self, photos: Sequence[Photo], scale: float = 1.0) -> Features:
        """The features of photos, from the extractor and the backbone.

        Args:
            photos: A batch of any sizes.
            scale: Factor on the extractor's input size.

        Raises:
            ValueError: The describer has no backbone, or no extractor.
        """
        if self.backbone is None or self.extractor is None:
            raise ValueError(f"features: expected a describer with a backbone and an extractor, found {self._label}")
        return self.extractor.extract(photos, self.backbone, scale)


def checked_given(photos: Sequence[Photo], regions: Sequence[Regions | None] | None) -> list[Regions | None]:
    """Check the argument ``regions`` of `describe`; None becomes one None per photo.

    Raises:
        ValueError: There is not one item per photo, or regions belong to an image of another size.
    """
    given: list[Regions | None] = [None] * len(photos) if regions is None else list(regions)
    if len(given) != len(photos):
        raise ValueError(f"regions: expected one per photo ({len(photos)}), found {len(given)}")
    for photo, of_photo in zip(photos, given, strict=True):
        if of_photo is not None and of_photo.size != photo.size:
            raise ValueError(f"regions of {photo.id!r}: expected the image size {photo.size}, found {of_photo.size}")
    return given
