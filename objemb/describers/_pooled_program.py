"""Pooled regions as functions of tensors, for exporters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from objemb.describers.base import DescriptionProgram, RowOfRegions
from objemb.detectors.capabilities import NetworkDetector, NetworkInput, PaddedBoxes
from objemb.extractors.base import ExtractionProgram, TracedFeatures
from objemb.ops.grid import lengths
from objemb.ops.rmac import summed_rows
from objemb.ops.tensors import l2, rows_where

if TYPE_CHECKING:  # they make the programs
    from objemb.describers.pooled_regions import PooledRegions
    from objemb.describers.regional_attention import RegionalAttention
    from objemb.describers.rmac_network import RmacNetwork


class PooledProgram(DescriptionProgram):
    """Regions of a photo, and the vectors of regions from crops or from a map.

    Where each region is a row, the graph of photos finds boxes, and that of boxes describes them, so that neither holds
    the network of the other; a photo without a detector is described as a whole.

    Args:
        describer: Whose layers these are.
        max_detections: See :meth:`objemb.describers.base.Describer.program`.
        row: Likewise.

    Raises:
        TypeError: A part cannot be exported.
        ValueError: Each region of a grid would be a row.
    """

    #: Whether the describer itself makes one row of the regions of a photo.
    sums: ClassVar[bool] = False

    def __init__(self, describer: PooledRegions, max_detections: int, row: RowOfRegions | None) -> None:
        super().__init__()
        if describer.pooling.not_exported is not None:
            raise TypeError(
                f"pooling: expected one that can be exported, found {describer.pooling.registry_name}, "
                f"{describer.pooling.not_exported}"
            )
        self.describer, self.row = describer, row
        self.regions = describer.regions.program(None if row is not None else max_detections)
        programs = [describer.extractor.program(describer.backbone, scale) for scale in describer.scales]
        self.extractions = cast(Sequence[ExtractionProgram], nn.ModuleList(programs))
        self.shared = _Shared(describer) if describer.shared_detector else None
        self.max_detections = self.regions.max_detections if self.regions.detects else 0
        self.min_score, self.covers = self.regions.min_score, self.regions.covers
        self.keeps_scale = all(program.keeps_scale for program in programs)
        if row is None and self.regions.max_detections and not (self.regions.detects or self.sums):
            raise ValueError(
                "aggregator: expected one row per photo (sum) for a grid of regions in an exported model, found a row "
                "for each region"
            )

    def photos(self, photos: Tensor) -> dict[str, Tensor]:
        """See :meth:`DescriptionProgram.photos`."""
        found, first = self._looked(photos, self.extractions[0])
        outputs = [detected(of_photo) if self.regions.detects else {} for of_photo in found]
        if self.row is not None or not self.regions.detects:
            first = self.extractions[0](photos) if first is None else first
            features = zip(first, *(extraction(photos) for extraction in self.extractions[1:]), strict=True)
            for of_photo, boxes, maps in zip(outputs, found, features, strict=True):
                of_photo["whole"] = self._row(photos, maps, boxes)
        return {name: torch.stack([one[name] for one in outputs]) for name in outputs[0]}

    def _looked(
        self, photos: Tensor, extraction: ExtractionProgram
    ) -> tuple[list[PaddedBoxes], list[TracedFeatures] | None]:
        """The regions of photos and, where they come from the detector on whose map they are pooled, the features of
        the same pass."""
        if self.shared is None:
            return self.regions(photos, extraction.grid(photos)), None
        pixels = self.shared.detection.normalised(extraction.pixels(photos))
        maps = self.shared.detector.features(NetworkInput(pixels, []))
        size = lengths((pixels.shape[2], pixels.shape[3]), photos).float()
        found = self.regions.in_pass(photos, pixels, size, maps)
        return found, extraction.of_maps(photos, maps[self.shared.level])

    def boxes(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """See :meth:`DescriptionProgram.boxes`."""
        features = [extraction(photo[None])[0] for extraction in self.extractions]
        return self._whitened(self._vectors(features, boxes))

    def part(self, part: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """See :meth:`DescriptionProgram.part`."""
        if not self.keeps_scale:
            return super().part(part, rows, columns)
        with ExitStack() as scaled:
            for extraction in self.extractions:
                scaled.enter_context(extraction.at_scale_of((rows.shape[0], columns.shape[0])))
            return self.photos(part[None])["whole"]

    def _row(self, photos: Tensor, features: Sequence[TracedFeatures], found: PaddedBoxes) -> Tensor:
        """The row ``(D,)`` of a photo."""
        boxes, scores = with_whole(photos, found)
        vectors = self._whitened(self._vectors(features, boxes))
        return vectors[0] if self.row is None else self.row(vectors, self._scores(features, boxes, scores))

    def _scores(self, features: Sequence[TracedFeatures], boxes: Tensor, scores: Tensor) -> Tensor:
        """The scores ``(R,)`` of regions, where those of their source are given."""
        return scores

    def _vectors(self, features: Sequence[TracedFeatures], boxes: Tensor) -> Tensor:
        """Unit vectors ``(N, raw_dim)``."""
        return self.describer.fused([self.describer.embedded(f.pool(boxes, self.describer.pooling)) for f in features])

    def _whitened(self, vectors: Tensor) -> Tensor:
        whitening = self.describer.whitening
        return vectors if whitening is None else whitening(vectors)


class _Shared(nn.Module):
    """The detector on whose map regions are pooled, and that map."""

    def __init__(self, describer: PooledRegions) -> None:
        super().__init__()
        detector, level = describer.detector, describer.backbone.level
        if not isinstance(detector, NetworkDetector) or level is None:
            raise TypeError("shared_detector: expected a backbone that is a map of a network, found another")
        self.detector, self.detection, self.level = detector, detector.program(), level


class AttendedProgram(PooledProgram):
    """:class:`~objemb.describers.regional_attention.RegionalAttention`: scores are weights of attention."""

    describer: RegionalAttention

    def _scores(self, features: Sequence[TracedFeatures], boxes: Tensor, scores: Tensor) -> Tensor:
        """See :meth:`PooledProgram._scores`."""
        means = features[0].pool(boxes, self.describer.mean).float()
        weights: Tensor = self.describer.attention(means, features[0].map.mean(dim=(1, 2)).float().expand_as(means))
        return weights


class SummedProgram(PooledProgram):
    """:class:`~objemb.describers.rmac_network.RmacNetwork` with the output ``image``: the row of a photo is a sum over
    regions at each scale, which lie on the map of that scale."""

    describer: RmacNetwork
    sums = True

    def photos(self, photos: Tensor) -> dict[str, Tensor]:
        """See :meth:`DescriptionProgram.photos`."""
        sums, outputs = list[Tensor](), dict[str, Tensor]()
        for extraction in self.extractions:
            found, features = self._looked(photos, extraction)
            if self.regions.detects and not sums:
                each = [detected(of_photo) for of_photo in found]
                outputs = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            features = extraction(photos) if features is None else features
            rows = [self._sum(photos, *one) for one in zip(features, found, strict=True)]
            sums.append(torch.cat(rows))
        return {**outputs, "whole": self._whitened(self.describer.fused(sums))}

    def _sum(self, photos: Tensor, features: TracedFeatures, found: PaddedBoxes) -> Tensor:
        """Unit vector ``(1, D)`` of a photo at one scale."""
        boxes, _ = with_whole(photos, found)
        vectors = self.describer.embedded(features.pool(boxes, self.describer.pooling))
        return l2(summed_rows(vectors, self.describer.whole_image)[None])


def detected(found: PaddedBoxes) -> dict[str, Tensor]:
    """The outputs of the graph of photos about boxes."""
    return {"boxes": found.boxes, "labels": found.labels, "scores": found.scores, "count": found.count}


def with_whole(photos: Tensor, found: PaddedBoxes) -> tuple[Tensor, Tensor]:
    """The whole photo and the boxes that were found ``(R, 4)``, and their scores ``(R,)``, 1 for the photo."""
    extent = lengths((photos.shape[1], photos.shape[2]), photos).flip(0).to(found.boxes.dtype)
    whole = torch.cat([torch.zeros_like(extent), extent])[None]
    if found.boxes.shape[0] == 0:
        return whole, torch.ones_like(whole[:, 0])
    there = rows_where(torch.arange(found.boxes.shape[0], device=photos.device) < found.count)
    return torch.cat([whole, found.boxes[there]]), torch.cat([torch.ones_like(whole[:, 0]), found.scores[there]])
