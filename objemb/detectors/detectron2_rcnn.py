"""Every Faster, Mask and Cascade R-CNN of Detectron2, and the embedding head for its own configs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from objemb import checks
from objemb.detectors._detectron2_teacher import TeacherMapper
from objemb.detectors._outputs import photo_regions
from objemb.detectors._rcnn import counted_classes
from objemb.detectors.capabilities import DetectionProgram, NetworkDetector, NetworkInput
from objemb.ops.batches import group_equal
from objemb.ops.tensors import as_tensor
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.types import Settings, Uint8Array
from objemb.weights.locate import is_named

if TYPE_CHECKING:
    from detectron2.config import CfgNode

__all__ = [
    "Detectron2Rcnn",
    "TeacherMapper",
    "add_embedding_head_config",
    "add_embedding_head_lazy_config",
    "describe_boxes",
    "embedding_config",
    "scripted",
]

#: More than the side of any JPEG, which alone can be decoded at a lower resolution.
FULL_SIDE = 1 << 16

logger = logging.getLogger(__name__)


def add_embedding_head_config(cfg: object) -> None:
    """Add an embedding head to a Detectron2 config: its node ``MODEL.ROI_EMBEDDING_HEAD``, and ROI heads that read it.

    ::

        cfg = get_cfg()
        add_embedding_head_config(cfg)
        cfg.merge_from_file("my_faster_rcnn.yaml")
        cfg.MODEL.ROI_EMBEDDING_HEAD.DIM = 128
        model = build_model(cfg)

    It can be called before or after a file is merged: networks and ROI heads that are named later get embeddings as
    well. A file with the node itself, like the ``config.yaml`` of a trained model, has to be merged afterwards, because
    Detectron2 rejects unknown keys; :func:`embedding_config` does both.

    ``instances.pred_embeddings`` are the vectors, float32 ``(N, D)`` of unit length; see
    :class:`objemb.detectors._detectron2_heads.WithEmbeddings` for their training, and
    :func:`objemb.detectors._detectron2_heads.embedding_head_node` for the keys. COCO weights load as usual; the head
    keeps its random initialisation.

    Args:
        cfg: A ``CfgNode``, changed in place: an existing node is kept; ``MODEL.META_ARCHITECTURE`` and
            ``MODEL.ROI_HEADS.NAME`` become those with embeddings.

    Raises:
        ValueError: The network has no ROI heads, such as RetinaNet, or other ROI heads than ``StandardROIHeads``,
            ``Res5ROIHeads`` or ``CascadeROIHeads``; also later, when such a config is merged.
        ImportError: Detectron2 is not installed.
    """
    _needed()
    from objemb.detectors._detectron2_config import add_embedding_head_config as add

    add(cfg)


def add_embedding_head_lazy_config(
    cfg: object,
    head: Settings | None = None,
    *,
    loss: str | None = None,
    loss_weight: float | None = None,
    proposals: int | None = None,
    object_side: float | None = None,
) -> None:
    """Add an embedding head to a config of Detectron2 that is a program (LazyConfig), such as those of ViTDet::

        cfg = LazyConfig.load("mask_rcnn_vitdet_b_100ep.py")
        add_embedding_head_lazy_config(cfg, {"name": "embedding", "dim": 256})
        cfg.dataloader.train.mapper = LazyCall(TeacherMapper)(
            mapper=cfg.dataloader.train.mapper, teacher=load_model("teacher").describer, image_format="RGB"
        )
        model = instantiate(cfg.model)

    The vectors and the loss are those of :func:`add_embedding_head_config`. The keys ``embedding_head``,
    ``embedding_loss``, ``embedding_loss_weight``, ``embedding_proposals`` and ``embedding_object_side`` of
    ``cfg.model.roi_heads`` can be changed afterwards; called again, only what is given is changed.

    Args:
        cfg: The config, changed in place: ``cfg.model`` and ``cfg.model.roi_heads`` become those with embeddings.
        head: Settings of the head, as ``head:`` in a config of objemb; by default ``{"name": "embedding", "dim":
            128}`` on the maps of the box head. The trunk of a ViT has one level only, ``trunk16``.
        loss: ``cosine`` (the default), ``l2`` or ``relational``.
        loss_weight: Relative to the losses of the detector, 1 by default; with 0 the head is not trained.
        proposals: Foreground proposals per image to train on, 32 by default, in addition to all true boxes.
        object_side: Longer side, in pixels of the network's input, at which objects are described; 0, the default, for
            their own size.

    Raises:
        TypeError: ``cfg`` is another kind of config.
        ValueError: The network has no ROI heads, or other ROI heads than ``StandardROIHeads``, ``Res5ROIHeads`` or
            ``CascadeROIHeads``.
        ImportError: Detectron2 is not installed.
    """
    _needed()
    from objemb.detectors._detectron2_lazy import add_embedding_head_lazy_config as add

    said = {"loss": loss, "loss_weight": loss_weight, "proposals": proposals, "object_side": object_side}
    add(cfg, head, **{key: value for key, value in said.items() if value is not None})


def embedding_config(file: str | Path, opts: Sequence[object] = ()) -> CfgNode:
    """The config of a network with an embedding head, such as ``config.yaml`` of a training or of ``objemb model
    to-detectron2``::

        predictor = DefaultPredictor(embedding_config("model/config.yaml"))
        predictor(image)["instances"].pred_embeddings

    Args:
        file: The config. If ``MODEL.WEIGHTS`` is the name of a file beside it, it becomes the path of this file.
        opts: Overrides: key, value, key, value ...

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As for :func:`add_embedding_head_config`.
        ImportError: Detectron2 is not installed.
    """
    _needed()
    from objemb.detectors._detectron2_config import embedding_config as of_file

    return of_file(file, opts)


def describe_boxes(model: object, image: Uint8Array, boxes: ArrayLike) -> Tensor:
    """Vectors of given boxes of a photo, by a network of Detectron2 with an embedding head.

    Args:
        model: A ``DefaultPredictor``, which resizes the photo as always; or a network itself, which gets the photo as
            it is.
        image: uint8 ``(H, W, 3)``, with the channels in the order of OpenCV (blue, green, red), as
            ``DefaultPredictor`` takes it; for a network, in its own order (``input_format``).
        boxes: ``(N, 4)``, xyxy edges in pixels of the photo; N may be 0.

    Returns:
        float32 ``(N, D)`` on the CPU, of unit length.

    Raises:
        TypeError: The network has no embedding head.
        ValueError: The image or the boxes have another form.
    """
    _needed()
    from objemb.detectors._detectron2_boxes import describe_boxes as describe

    return describe(model, image, boxes)


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    """A TorchScript program of a network of Detectron2 with an embedding head, whatever the head reads: maps of a
    pyramid, levels of the trunk, windows of objects. ``scripting_with_instances`` compiles the first only.

    A copy is compiled, in which backbone and head are traced, since both compute the same for all images.

    Args:
        network: The network, in eval mode.

    Returns:
        ``program.inference(inputs, do_postprocess=False)`` gives instances with ``pred_embeddings``.

    Raises:
        TypeError: The network has no embedding head.
        ValueError: It is in training mode.
        ImportError: Detectron2 is not installed.
    """
    _needed()
    from objemb.detectors._detectron2_script import scripted as script

    return script(network)


@plugin
class Detectron2Rcnn(NetworkDetector):
    """A Faster, Mask or Cascade R-CNN of Detectron2, whose masks become the extra ``masks``.

    Photos that reach the network in the same padded shape share a forward pass, and only those: a photo's boxes do not
    depend on which photos are detected with it (up to rounding in the last digits). They are resized as Detectron2's
    ``DefaultPredictor`` does, by Pillow and from their full resolution; channels, colours and their order are those of
    the config.

    Nothing is ever downloaded: the weights that a config names are ignored.

    Args:
        config: Name of a config that comes with Detectron2, a file of your own, or the contents of such a file as a
            mapping. A model folder stores the contents. A program (LazyConfig, ``.py``) is run when the model is built,
            not when its folder is opened; its network must consist of parts of Detectron2 and PyTorch.
        weights: A file of Detectron2's model zoo (``.pkl``, read without executing it) or of ``torch.save``, such as
            ``model_final.pth`` of its trainer (an embedding head in it is not part of the detector, which is said; give
            the file as ``head.weights`` too, or use ``objemb model build detectron2``), a model folder, or ``random``
            (None is the same here). Weights of a classifier, such as those for ImageNet of Detectron2 or torchvision,
            fill the trunk; the heads stay random, which is said.
        opts: Overrides of the config: key, value, key, value ..., such as ``[MODEL.RESNETS.DEPTH, 101]``, or
            ``[model.backbone.net.depth, 24]`` of a program.
        classes: Names of the classes; by default those of the dataset of the config, if Detectron2 knows it.
        num_classes: Number of classes *without* the background; by default that of the config.
        score_threshold: Boxes with lower scores are not detected. For this and all further arguments, None means the
            value of the config.
        nms_iou: IoU above which the lower-scoring of two boxes *of the same class* is dropped.
        max_detections: Maximum number of boxes per photo.
        min_size: The shorter side of the network's input, in pixels. In a program, that of ``ResizeShortestEdge`` in
            ``dataloader.test.mapper.augmentations``.
        max_size: Limit of the longer side, in pixels.

    Raises:
        FileNotFoundError: The config does not exist.
        ValueError: The config is for another kind of network, or ``classes`` and ``num_classes`` do not match.
        MissingWeightsError: The file of weights does not exist.
        UnreadableWeightsError: The file does not fit the network, for instance has another number of classes.
        ImportError: Detectron2 is not installed.
    """

    published = "FILE (of Detectron2's model zoo or trainer)"
    #: Settings that may name a file, with a pattern of values that name none: configs that come with Detectron2.
    files: ClassVar[dict[str, str]] = {"config": r"[A-Z][\w.-]*/[\w.-]+\.yaml"}

    def __init__(
        self,
        config: str | Path | Mapping[str, object] = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
        *,
        weights: str | Path | None = None,
        opts: Sequence[object] = (),
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> None:
        super().__init__()
        _needed()
        from objemb.detectors._detectron2_config import of_network, read_file
        from objemb.detectors._detectron2_network import network_of
        from objemb.detectors._detectron2_trunk import trunk_levels, with_trunk
        from objemb.detectors._detectron2_weights import fill_network

        content = of_network(config) if isinstance(config, Mapping) else read_file(config, opts)
        opened = network_of(
            content,
            opts,
            num_classes=_count(num_classes, classes),
            score_threshold=_share("score_threshold", score_threshold),
            nms_iou=_share("nms_iou", nms_iou),
            max_detections=_whole("max_detections", max_detections),
            min_size=_whole("min_size", min_size),
            max_size=_whole("max_size", max_size),
        )
        self.cfg, self.network = opened.cfg, opened.network
        self.min_size, self.max_size = opened.sides
        self.bgr = self.network.input_format == "BGR"
        self.classes = opened.classes if classes is None else tuple(str(c) for c in classes)
        self.pyramid = tuple(self.network.roi_heads.in_features)
        self._trunk_levels = tuple(trunk_levels(with_trunk(self.network.backbone)))
        if is_named(weights):
            filled = fill_network(self.network, weights)
            self.unused_head, self.random_parts = filled.unused_head, filled.random
            if filled.random:
                logger.warning("%s has no classifier of boxes: the trunk is filled, the heads stay random", weights)
            if not self.classes and self.num_classes > 1:
                logger.warning(
                    "the data set of the config (%s) is not known here, so that labels are numbers: pass classes=[...]",
                    ", ".join(opened.datasets) or "none",
                )

    @staticmethod
    def expect_installed() -> None:
        """Raise ``ImportError``, with how to install it, if Detectron2 is not installed."""
        _needed()

    @staticmethod
    def stand_alone(settings: Settings) -> dict[str, object]:
        """Settings that need no file except that of the weights: a config file is replaced by its contents."""
        config = settings["config"]
        shipped = not isinstance(config, Mapping) and not Path(config).expanduser().is_file()
        if isinstance(config, Mapping) or (shipped and not str(config).endswith(".py")):
            return dict(settings)
        _needed()
        from objemb.detectors._detectron2_config import of_network, read_file

        return {**settings, "config": of_network(read_file(config, settings["opts"]))}

    def groups(self, photos: Sequence[Photo]) -> list[list[int]]:
        """See :meth:`NetworkDetector.groups`."""
        multiple = max(1, self.network.backbone.size_divisibility)
        sizes = (self.network_size(_sides(photo)) for photo in photos)
        return group_equal(tuple(math.ceil(side / multiple) for side in size) for size in sizes)

    def preprocess(self, photos: Sequence[Photo]) -> NetworkInput:
        """See :meth:`NetworkDetector.preprocess`."""
        from objemb.detectors._detectron2_boxes import resized

        pixels = [resized(as_tensor(photo.pixels), self.network_size(_sides(photo))) for photo in photos]
        images = self.network.preprocess_image([{"image": p.flip(0) if self.bgr else p} for p in pixels])
        # laid out as Detectron2 does: with another layout, convolutions add in another order, and boxes differ
        return NetworkInput(images.tensor, images.image_sizes)

    def normalised(self, pixels: Tensor) -> NetworkInput:
        """See :meth:`NetworkDetector.normalised`."""
        height, width = pixels.shape[2:]
        channels = 255 * (pixels.flip(1) if self.bgr else pixels)
        tensors = (channels - self.network.pixel_mean) / self.network.pixel_std
        tensors = tensors.contiguous(memory_format=torch.channels_last)
        return NetworkInput(tensors, [(height, width)] * len(pixels))

    def features(self, batch: NetworkInput) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.features`; includes the pyramid levels that are for proposals only."""
        maps: dict[str, Tensor] = self.network.backbone(batch.tensors)
        return maps

    def maps(self, batch: NetworkInput, names: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.maps`. Trunks other than ResNets and networks of objemb run completely."""
        from objemb.detectors._detectron2_trunk import lower_maps

        return lower_maps(self.network.backbone, batch.tensors, names)

    def levels(self) -> dict[str, tuple[int, int]]:
        """See :meth:`NetworkDetector.levels`."""
        from objemb.detectors._detectron2_trunk import shapes_of

        shapes = shapes_of(self.network)
        return {name: shapes[name] for name in (*self.pyramid, *self._trunk_levels)}

    def regions(self, batch: NetworkInput, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`NetworkDetector.regions`."""
        proposals, _ = self.network.proposal_generator(batch, features, None)
        detected, _ = self.network.roi_heads(batch, features, proposals, None)
        return [
            photo_regions(
                instances.pred_boxes.tensor,
                instances.image_size,
                photo,
                scores=instances.scores,
                labels=instances.pred_classes,
                classes=self.classes,
                masks=instances.pred_masks[:, 0] if instances.has("pred_masks") else None,
            )
            for instances, photo in zip(detected, photos, strict=True)
        ]

    @torch.no_grad()
    def proposals(self, batch: NetworkInput, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`NetworkDetector.proposals`."""
        proposed, _ = self.network.proposal_generator(batch, features, None)
        return [
            photo_regions(instances.proposal_boxes.tensor, instances.image_size, photo)
            for instances, photo in zip(proposed, photos, strict=True)
        ]

    def losses(
        self, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions], photos: Sequence[Photo]
    ) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.losses`; the terms have Detectron2's names."""
        from objemb.detectors._detectron2_losses import detectron2_losses

        return detectron2_losses(self.network, batch, features, targets)

    def proposal_losses(
        self, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions]
    ) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.proposal_losses`; the terms have Detectron2's names."""
        from objemb.detectors._detectron2_losses import detectron2_proposal_losses

        return detectron2_proposal_losses(self.network, batch, features, targets)

    def program(self) -> DetectionProgram:
        """See :meth:`NetworkDetector.program`."""
        from objemb.detectors._detectron2_program import Detectron2Program

        return Detectron2Program(self.network, (self.min_size, self.max_size), self.bgr)

    @property
    def num_classes(self) -> int:
        """See :attr:`NetworkDetector.num_classes`."""
        return int(self.network.roi_heads.num_classes)

    def decode_side(self) -> int:
        """See :meth:`Detector.decode_side`: as Detectron2 does, photos are resized from their full resolution."""
        return FULL_SIDE

    @property
    def mean(self) -> Tensor:
        """See :attr:`NetworkDetector.mean`."""
        return self._rgb(self.network.pixel_mean)

    @property
    def std(self) -> Tensor:
        """See :attr:`NetworkDetector.std`."""
        return self._rgb(self.network.pixel_std)

    def _rgb(self, colour: Tensor) -> Tensor:
        flat = colour.flatten().cpu() / 255
        return flat.flip(0) if self.bgr else flat

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`NetworkDetector.network_size`: Detectron2's rule, with at least one pixel a side."""
        from detectron2.data.transforms import ResizeShortestEdge

        height, width = ResizeShortestEdge.get_output_shape(*size, self.min_size, self.max_size)
        return max(1, height), max(1, width)


def _sides(photo: Photo) -> tuple[int, int]:
    """``(height, width)`` of the decoded pixels."""
    return photo.pixels.shape[1], photo.pixels.shape[2]


def _needed() -> None:
    try:
        import detectron2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "detectron2_rcnn needs Detectron2, which is in no package index: see its INSTALL.md, or "
            "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2'"
        ) from error


def _share(name: str, value: float | None) -> float | None:
    return None if value is None else float(checks.between(name, value, 0, 1))


def _whole(name: str, value: int | None) -> int | None:
    return None if value is None else checks.whole(name, value)


def _count(num_classes: int | None, classes: Sequence[str] | None) -> int | None:
    return None if num_classes is None and classes is None else counted_classes(num_classes, classes)[0]
