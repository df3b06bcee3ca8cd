"""Re-ranking by the cells of both matched boxes: what ``chamfer``, ``sinkhorn`` and ``cell_votes`` share."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.describers.base import Describer
from objemb.detectors.capabilities import NetworkDetector
from objemb.extractors.crop import Crop
from objemb.ops.batches import batched
from objemb.ops.tensors import l2
from objemb.pooling.mean import Mean
from objemb.rerank._looking import with_photos
from objemb.rerank.base import Reranker, Search, put_first, scored
from objemb.structures import Box, Photo, Regions, SearchResult

#: Photos of hits that are open at the same time.
BATCH = 16
#: Boxes whose cells are kept.
KEPT = 1000
SCALE = "mixture of the cosine similarity and of the similarity of the cells of both boxes"


class CellReranker(Reranker):
    """Compares the cells of the feature maps of the query box and of the matched box of each hit.

    Both boxes are cut out, resized to one size and passed through the network of the describer. Its cells, unit
    vectors, are whitened as the vectors of the describer are, if these have the same length, and normalised again. A
    detector with an embedding head has no such network; the coarsest map of its trunk is used.

    Args:
        top: Number of hits per query that are compared.
        size: Side of a box in pixels when it enters the network.
        weight: Share of the similarity of cells in the new score; the rest is the old score.
    """

    scale = SCALE

    def __init__(self, *, top: int = 50, size: int = 225, weight: float = 0.5) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.crop = Crop(size=checks.whole("size", size))
        self.weight = checks.between("weight", weight, 0, 1)

    @abstractmethod
    def similarity(self, cosines: Tensor) -> Tensor:
        """The similarity of the query box and of the box of each of H hits.

        Args:
            cosines: float32 ``(H, n, m)``, of the ``n`` cells of the query box and of the ``m`` cells of the hit's.

        Returns:
            float32 ``(H,)``, at most 1.
        """

    @torch.no_grad()
    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`.

        Raises:
            ValueError: Photos cannot be opened, or the describer has no network.
        """
        if not any(len(result) for result in search.results):
            return search
        describer = search.needed_describer()
        network = cell_network(describer, self.registry_name)
        kept: OrderedDict[tuple[str, Box], Tensor] = OrderedDict()  # the same hits come up for many queries
        results = (self._ranked(search, number, network, describer, kept) for number in range(len(search.results)))
        return replace(search, results=tuple(results))

    def _ranked(
        self,
        search: Search,
        number: int,
        network: Backbone,
        describer: Describer,
        kept: OrderedDict[tuple[str, Box], Tensor],
    ) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        boxes = list(dict.fromkeys(hit.query_box for hit in first))
        photo = search.query_photo(number)
        of_query = dict(zip(boxes, box_cells([photo] * len(boxes), boxes, self.crop, network, describer), strict=True))
        ranked = []
        for batch in batched(first, BATCH):
            unknown = [hit for hit in batch if (hit.image, hit.box) not in kept]
            opened = list(with_photos(search, unknown))
            if opened:
                boxes_of_hits = [hit.box for hit, _ in opened]
                cells = box_cells([p for _, p in opened], boxes_of_hits, self.crop, network, describer)
                kept.update(((hit.image, hit.box), own) for (hit, _), own in zip(opened, cells, strict=True))
            hits = [hit for hit in batch if (hit.image, hit.box) in kept]
            if not hits:
                continue
            of_hits = torch.stack([kept[hit.image, hit.box] for hit in hits])
            wanted = torch.stack([of_query[hit.query_box] for hit in hits])
            similarities = self.similarity(wanted @ of_hits.transpose(1, 2)).tolist()
            ranked += [
                scored(hit, self.weight * similarity + (1 - self.weight) * hit.score)
                for hit, similarity in zip(hits, similarities, strict=True)
            ]
            while len(kept) > KEPT:
                kept.popitem(last=False)
        return put_first(result, ranked)


def box_cells(
    photos: Sequence[Photo], boxes: Sequence[Box], crop: Crop, network: Backbone, describer: Describer
) -> Tensor:
    """Unit vectors of the cells of boxes that are cut out and resized to one size.

    Args:
        photos: N photos.
        boxes: One box in each.
        crop: Cuts them out.
        network: As :func:`cell_network` gives it.
        describer: Its whitening is applied to cells of the length that it takes.

    Returns:
        float32 ``(N, n, D)`` on the CPU, of the ``n`` cells of each.
    """
    regions = [Regions([box], photo.size) for photo, box in zip(photos, boxes, strict=True)]
    cells = crop.extract(photos, network).local_features(regions, Mean())
    vectors = l2(torch.cat(cells).float())
    whitening = describer.whitening
    if whitening is not None and whitening.input_dim == vectors.shape[1]:
        vectors = l2(whitening(vectors))
    return vectors.cpu().reshape(len(cells), -1, vectors.shape[1])


def cell_network(describer: Describer, who: str) -> Backbone:
    """The network of a describer, or the coarsest map of the trunk of its detector.

    Raises:
        ValueError: It has neither.
    """
    detector = describer.detector
    if describer.backbone is not None or not isinstance(detector, NetworkDetector):
        return describer.needed_backbone(who)
    return DetectorTrunk(detector=detector)
