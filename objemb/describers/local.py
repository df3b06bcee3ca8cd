"""Local features of a photo, and the regions that they lie in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from objemb import checks
from objemb.describers.capabilities import FeatureDescriber
from objemb.detectors.capabilities import DetectorPass
from objemb.layers.learned_attention import LearnedAttention
from objemb.layers.precision import computed
from objemb.local_features.base import LocalExtractor
from objemb.ops.boxes import scale, windows
from objemb.ops.tensors import as_tensor
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import LocalFeatures, Photo, RegionFeatures, Regions

#: Features of the photo inside a region; or features of the region, cut out as a separate image.
INSIDE, CROP = "inside", "crop"
#: Prefix of the extractor's parts among those of the describer.
EXTRACTOR = "local_features."


@plugin
class Local(FeatureDescriber):
    """Local features in the regions of a photo, for the aggregators ``vlad`` and ``asmk`` (Teichmann, Araujo, Zhu and
    Sim, "Detect-to-retrieve: efficient regional aggregation for image search", CVPR 2019).

    Args:
        local_features: Computes the features.
        regions: Chooses the regions; None for the whole image only.
        region_features: ``inside``: features are computed once, and belong to every region that contains their centre.
            ``crop``: each region is cut out and described separately with as many features as a photo, as in
            detect-to-retrieve; the extractor decides on its input size (``enlarge: false`` keeps its pixels).
        shared_detector: Whether the regions come from the detector on whose map the features are computed
            (``detector_trunk`` with ``size: null``): one pass of it gives boxes and the features of scale 1. The
            ``regions`` then must not have a detector.

    Raises:
        ValueError: The features are not those of a detector, or the regions cannot share one.
    """

    def __init__(
        self,
        *,
        local_features: LocalExtractor,
        regions: RegionSource | None = None,
        region_features: str = INSIDE,
        shared_detector: bool = False,
    ) -> None:
        super().__init__(local_features=local_features, regions=regions)
        self.region_features = checks.one_of("region_features", region_features, (INSIDE, CROP))
        self.shared_detector = checks.flag("shared_detector", shared_detector)
        if shared_detector:
            self._share()

    @property
    def dim(self) -> int:
        """See :attr:`PhotoDescriber.dim`: length of the vectors of features."""
        return self.local_features.dim

    def decode_side(self) -> int | None:
        """See :meth:`PhotoDescriber.decode_side`; regions that are cut out need all pixels."""
        side = None if self.region_features == CROP else self.local_features.decode_side()
        return side if side is None or self.regions is None else max(side, self.regions.decode_side())

    def most_features(self, *, boxed: bool) -> int | None:
        """See :meth:`FeatureDescriber.most_features`."""
        several = self.region_features == CROP and (boxed or self.regions is not None)
        return None if several else self.local_features.count

    def describe_parts(self, photo: Photo, boxes: Regions, *, scaled: bool) -> RegionFeatures:
        """See :meth:`FeatureDescriber.describe_parts`."""
        cuts = [photo.part(box) for box in boxes]
        if not scaled:
            return self._moved(photo, boxes, self.local_features.extract(cuts))
        parts = [self.local_features.for_part(cut.size, photo.size).extract([cut])[0] for cut in cuts]
        return self._moved(photo, boxes, parts)

    def learned_attention(self) -> LearnedAttention:
        """See :meth:`PhotoDescriber.learned_attention`."""
        return self.local_features.learned_attention()

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[RegionFeatures]:
        if self.region_features == CROP:
            return [
                self.describe_parts(photo, of_photo, scaled=False)
                for photo, of_photo in zip(photos, self._regions(photos, given), strict=True)
            ]
        if self.shared_detector:
            regions, features = self._in_one_pass(photos, given)
        else:
            regions, features = self._regions(photos, given), self.local_features.extract(photos)
        return [
            RegionFeatures.by_position(photo.id, of_photo, of_all, photo.metadata)
            for photo, of_photo, of_all in zip(photos, regions, features, strict=True)
        ]

    def _in_one_pass(
        self, photos: Sequence[Photo], given: Sequence[Regions | None]
    ) -> tuple[list[Regions], list[LocalFeatures]]:
        """Regions and features, where both come from the maps of one detector."""
        detector, source = self.local_features.shared_detector(), self.regions
        if detector is None or source is None:
            raise ValueError("shared_detector: expected features and regions of one detector, found different ones")
        boxed = [number for number, of_photo in enumerate(given) if of_photo is not None]
        features = dict(zip(boxed, self.local_features.extract([photos[n] for n in boxed]), strict=True))
        regions = {number: of_photo for number, of_photo in enumerate(given) if of_photo is not None}
        wanted = [number for number in range(len(photos)) if number not in regions]
        for group in detector.groups([photos[n] for n in wanted]):
            numbers = [wanted[n] for n in group]
            together = [photos[n] for n in numbers]
            batch = detector.preprocess(together)
            seen = DetectorPass(batch, computed(batch.tensors.device, detector.features, batch))
            regions.update(zip(numbers, source.find_in(seen, together), strict=True))
            features.update(zip(numbers, self.local_features.extract(together, seen), strict=True))
        return [regions[n] for n in range(len(photos))], [features[n] for n in range(len(photos))]

    def _share(self) -> None:
        """Give the regions the detector on whose map the features are computed."""
        detector = self.local_features.shared_detector()
        if detector is None or self.regions is None:
            raise ValueError(
                "shared_detector: expected features of a map of a detector at its own size "
                "(local_features.backbone.name=detector_trunk, local_features.size=null) and regions of detections, "
                f"found {self.local_features.registry_name} and "
                f"{'no regions' if self.regions is None else self.regions.registry_name}"
            )
        self.regions.share(detector)
        object.__setattr__(self, "backbone", None)  # the network is the detector, as for one_pass

    def _samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Tensor]:
        """See :meth:`PhotoDescriber._samples`: the extractor's samples of whole photos."""
        if not part.startswith(EXTRACTOR):
            return super()._samples(part, photos, given)
        return [self.local_features.samples(part.removeprefix(EXTRACTOR), photos)]

    def _regions(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Regions]:
        """The given regions, and the regions found in the other photos."""
        wanted = [photo for photo, of_photo in zip(photos, given, strict=True) if of_photo is None]
        if self.regions is None:
            chosen = iter([Regions.whole(photo.size) for photo in wanted])
        else:
            chosen = iter(self.regions.find(wanted) if wanted else [])
        return [next(chosen) if of_photo is None else of_photo for of_photo in given]

    def _moved(self, photo: Photo, boxes: Regions, parts: Sequence[LocalFeatures]) -> RegionFeatures:
        """The features of boxes that were cut out, at their positions in the photo."""
        down, across = photo.scale
        edges = scale(as_tensor(boxes.boxes), photo.scale)
        corners = windows(edges, (photo.pixels.shape[1], photo.pixels.shape[2]))[:, :2].tolist()
        counts = [len(of_part) for of_part in parts]
        members = np.stack([np.repeat(np.arange(len(counts)), counts), np.arange(sum(counts))], axis=1)
        moved = [
            of_part.moved((x / across, y / down), photo.size) for of_part, (x, y) in zip(parts, corners, strict=True)
        ]
        together = LocalFeatures.cat([LocalFeatures.empty(photo.size, self.dim), *moved])
        return RegionFeatures(photo.id, boxes, together, members, photo.metadata)
