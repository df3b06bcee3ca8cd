"""Detectors of transformers: with classes of their own (DETR, RT-DETR, YOLOS ...) or found by text (OWL-ViT ...)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import torch
from torch import Tensor

from objemb import checks
from objemb.detectors import _transformers
from objemb.detectors._outputs import photo_regions
from objemb.detectors.base import Detector
from objemb.layers.frozen import Frozen
from objemb.layers.precision import computed
from objemb.ops.batches import group_equal
from objemb.ops.images import resize
from objemb.ops.tensors import as_tensor
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.types import Settings
from objemb.weights.locate import RANDOM, is_named

#: A photo that is longer than this, as a multiple of its shorter side, is stretched to it: image processors would
#: leave no pixel of the shorter side.
LONGEST = 64
#: What a photo is decoded to where the network's input has no limit.
UNLIMITED = 1 << 16


@plugin
class HfDetector(Frozen, Detector):
    """A detector of transformers by the name of its repository, or from a folder.

    It is either one of ``AutoModelForObjectDetection``, whose classes are those of its configuration, or an
    open-vocabulary one (``owlvit``, ``owlv2``, ``grounding-dino``, ``mm-grounding-dino``), whose classes are the
    prompts. In such a network the score of a prompt in Grounding DINO is the largest of its tokens'.

    Photos are prepared by the image processor of the network, those of one shape in a batch; none is padded to the
    size of another. No code of a repository is executed. A model folder stores the configurations and the tokens of the
    prompts, so that opening it needs no other file.

    Args:
        weights: A folder of ``save_pretrained``, a repository of the Hugging Face Hub, ``ORG/NAME`` or
            ``ORG/NAME@REVISION``, or ``random`` (None is the same here).
        config: A folder or repository whose configurations are used, or their contents as a mapping, as a model folder
            has it; by default those of ``weights``.
        prompts: Descriptions of the objects to look for, for an open-vocabulary network only.
        score_threshold: Boxes with lower scores are not detected. The default is low, because region sources select.
        max_detections: Maximum number of boxes per photo.

    Raises:
        ValueError: It is another kind of network, or prompts are missing or not wanted.
        MissingWeightsError: It is not on this machine and cannot be downloaded.
        UnreadableWeightsError: The weights do not fit the network.
        ImportError: transformers is not installed.
    """

    published = "ORG/NAME (of the Hugging Face Hub, or a folder)"
    #: ``config`` may name a file, or something to download; in a model folder it has to be a mapping.
    files: ClassVar[dict[str, str]] = {"config": r"(?!)"}

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        config: str | Path | Mapping[str, object] | None = None,
        prompts: Sequence[str] | None = None,
        score_threshold: float = 0.05,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        parts = _contents(weights, config, prompts)
        self.score_threshold = checks.between("score_threshold", score_threshold, 0, 1)
        self.max_detections = checks.whole("max_detections", max_detections)
        self.processor = _transformers.photo_processor(parts)
        self.network = _transformers.network(parts, weights if is_named(weights) else None, prompts)
        self.classes = _class_names(self.network.config.id2label) if prompts is None else tuple(prompts)
        tokens = _tokens(parts, prompts)
        self._places = tokens.pop("places", None)
        self._token_names = list(tokens)
        for name, values in tokens.items():
            self.register_buffer(f"token_{name}", torch.tensor(values), persistent=False)

    @staticmethod
    def stand_alone(settings: Settings) -> dict[str, object]:
        """Settings that need no file except that of the weights: ``config`` becomes the contents of its files."""
        return {**settings, "config": _contents(settings["weights"], settings["config"], settings["prompts"])}

    @torch.no_grad()
    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`."""
        inputs = [self._prepared(photo) for photo in photos]
        regions: dict[int, Regions] = {}
        for rows in group_equal(tuple(prepared["pixel_values"].shape) for prepared in inputs):
            batch = {name: torch.cat([inputs[i][name] for i in rows]) for name in inputs[rows[0]]}
            regions.update(zip(rows, self._of_batch(batch, [photos[i] for i in rows]), strict=True))
        return [regions[i] for i in range(len(photos))]

    def decode_side(self) -> int:
        """See :meth:`Detector.decode_side`."""
        size = dict(self.processor.size or {})
        longest = [size[key] for key in ("longest_edge", "height", "width", "max_height", "max_width") if size.get(key)]
        return max(longest) if longest and self.processor.do_resize else UNLIMITED

    def _prepared(self, photo: Photo) -> dict[str, Tensor]:
        """The input of the network for one photo, with a first dimension of 1, on the device of the network."""
        pixels = as_tensor(photo.pixels)
        height, width = pixels.shape[1:]
        least = math.ceil(max(height, width) / LONGEST)
        if min(height, width) < least:
            pixels = resize(pixels, (max(height, least), max(width, least)))
        prepared = self.processor(images=[pixels], return_tensors="pt", input_data_format="channels_first")
        device = next(self.network.parameters()).device
        return {name: values.to(device) for name, values in prepared.items()}

    def _of_batch(self, batch: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        tokens = {name: getattr(self, f"token_{name}") for name in self._token_names}
        tokens = {name: values.repeat(len(photos), 1) for name, values in tokens.items()}

        def outputs() -> dict[str, Tensor]:
            found = self.network(**batch, **tokens)
            return {"logits": found.logits, "pred_boxes": found.pred_boxes}

        detected = computed(batch["pixel_values"].device, outputs)
        return [
            self._regions(photo, *found) for photo, found in zip(photos, self._boxes(detected, photos), strict=True)
        ]

    def _boxes(self, detected: dict[str, Tensor], photos: Sequence[Photo]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes in pixels of each photo, scores and labels."""
        sizes = [photo.size for photo in photos]
        if self._places is None:
            found = self.processor.post_process_object_detection(
                SimpleNamespace(**detected), threshold=self.score_threshold, target_sizes=sizes
            )
            return [(of_photo["boxes"], of_photo["scores"], of_photo["labels"]) for of_photo in found]
        tokens = detected["logits"].sigmoid()
        scores, labels = torch.stack([tokens[..., a:b].amax(-1) for a, b in self._places], -1).max(-1)
        centres, sides = detected["pred_boxes"].split(2, dim=-1)
        scale = centres.new_tensor([[w, h, w, h] for h, w in sizes])[:, None]
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1) * scale
        sure = scores >= self.score_threshold
        return [(boxes[i][kept], scores[i][kept], labels[i][kept]) for i, kept in enumerate(sure)]

    def _regions(self, photo: Photo, boxes: Tensor, scores: Tensor, labels: Tensor) -> Regions:
        best = scores.sort(descending=True, stable=True).indices[: self.max_detections]
        return photo_regions(
            boxes[best].float().cpu(),
            photo.size,
            photo,
            scores=scores[best].float().cpu(),
            labels=labels[best].cpu(),
            classes=self.classes,
        )


def _contents(
    weights: str | Path | None, config: str | Path | Mapping[str, object] | None, prompts: Sequence[str] | None
) -> Mapping[str, object]:
    """The contents of the files of a network, unless they are given."""
    if isinstance(config, Mapping):
        return config
    source = config if config is not None else weights
    if source is None or source == RANDOM:
        raise ValueError(
            "hf_detector: expected weights or config, a folder of transformers or a repository ORG/NAME, found neither"
        )
    return _transformers.contents(source, prompts)


def _tokens(parts: Mapping[str, object], prompts: Sequence[str] | None) -> dict[str, list[list[int]]]:
    """The tokens in the contents. Raises ``ValueError`` for a number that is not that of the prompts."""
    if prompts is None:
        return {}
    tokens = parts.get(_transformers.TOKENS)
    if not isinstance(tokens, Mapping) or "input_ids" not in tokens:
        raise ValueError(f"config: expected the tokens of {len(prompts)} prompts, found {tokens!r}")
    count = len(tokens.get("places", tokens["input_ids"]))
    if count != len(prompts):
        raise ValueError(f"prompts: expected {count}, whose tokens config has, found {len(prompts)}")
    return dict(tokens)


def _class_names(names: Mapping[int, str]) -> tuple[str, ...]:
    """Names by label, in which labels may be missing."""
    return tuple(names.get(label, f"LABEL_{label}") for label in range(max(names, default=-1) + 1))
