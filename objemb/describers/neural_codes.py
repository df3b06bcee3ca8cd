"""Neural codes: activations of a fully connected layer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.crop import Crop
from objemb.layers.tracing import with_outputs
from objemb.pooling.mean import Mean
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.weights.classifiers import checked_layer, classifier_network, fill_from
from objemb.weights.locate import is_named

#: Layers of classification heads.
HEADS = r"(classifier|fc|flatten)(\.\w+)?"


@plugin
class NeuralCodes(PooledRegions):
    """Activations of a classifier's head, one vector per region (Babenko, Slesarev, Chigorin and Lempitsky, "Neural
    codes for image retrieval", ECCV 2014).

    Each region is cut out and resized to a square, the input on which the network was trained. The paper describes the
    whole image.

    Args:
        regions: Chooses the regions.
        arch: Name of a network in torchvision, such as ``vgg16``.
        layer: A layer with one vector per image: ``classifier.1`` is the first fully connected layer of VGG after its
            ReLU (fc6, "l6" in the paper), ``classifier.2`` that of AlexNet; ``flatten`` is the average of the map of a
            network with a single linear layer.
        weights: Name in torchvision (``IMAGENET1K_V1``, ``DEFAULT``), a file with a state dict of the whole network, or
            ``random`` (None is the same here).
        size: Side of the square in pixels.
        batch: Regions per forward pass.

    Raises:
        ValueError: The arch, layer or name of weights is unknown, or the layer does not give a vector.
        MissingWeightsError: The weights are not on this machine and cannot be downloaded.
        UnreadableWeightsError: The file does not fit the network.
    """

    published = "DEFAULT (or another name in torchvision, or a file)"

    def __init__(
        self,
        *,
        regions: RegionSource,
        arch: str,
        layer: str,
        weights: str | Path | None = None,
        size: int = 224,
        batch: int = 8,
    ) -> None:
        super().__init__(
            regions=regions,
            backbone=_Codes(arch, layer, weights, checks.whole("size", size)),
            extractor=Crop(size=size, batch=batch),
            pooling=Mean(),  # of a single cell
        )


class _Codes(Backbone):
    """A classifier up to a layer of its head, as a map of one cell, for inputs of one size."""

    def __init__(self, arch: str, layer: str, weights: str | Path | None, side: int) -> None:
        super().__init__()
        classifier = classifier_network(arch)
        self.layer = checked_layer(classifier, layer, HEADS)
        self.network = with_outputs(classifier, [layer])
        if is_named(weights):
            fill_from(weights, arch, classifier, self.network)
        self.normalise_by(IMAGENET_MEAN, IMAGENET_STD)
        self.stride = self.smallest = self.multiple = side
        self.channels = _length(f"{arch}, layer {layer!r}", self.network, side)

    def forward(self, pixels: Tensor) -> Tensor:
        """Codes ``(B, D, 1, 1)`` of images ``(B, 3, side, side)``, RGB, 0 to 1."""
        codes: Tensor = self.network(self.normalised(pixels))[self.layer].flatten(1)[:, :, None, None]
        return codes


@torch.no_grad()
def _length(name: str, network: nn.Module, side: int) -> int:
    """The dimension D of a layer with output ``(B, D)``."""
    try:
        (codes,) = network(torch.zeros(1, 3, side, side)).values()
    except RuntimeError as error:
        raise ValueError(f"{name}: expected a size that the network accepts, found {side}: {error}") from error
    if codes.shape[2:].numel() != 1:
        raise ValueError(f"{name}: expected one vector per image (1, D), found shape {tuple(codes.shape)}")
    return int(codes.shape[1])
