"""Classification networks of torchvision, and their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import get_graph_node_names

from objemb import checks
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import locate
from objemb.weights.read import read_weights

#: Transformers, which have no feature maps.
TRANSFORMERS = ("vit_", "swin_", "maxvit_")
#: Networks that were trained with another normalisation, and have an option to convert from ImageNet's.
CONVERTING = ("googlenet", "inception_v3")


def classifier_network(arch: str) -> nn.Module:
    """A convolutional network of torchvision with random weights, in eval mode, for ImageNet's normalisation.

    Raises:
        ValueError: The network does not exist, or is a transformer.
    """
    known = [n for n in models.list_models(module=models) if not n.startswith(TRANSFORMERS)]
    if str(arch).startswith(TRANSFORMERS):
        raise ValueError(f"arch: expected a convolutional network, found the transformer {arch!r}; timm_net has those")
    checks.one_of("arch", arch, known)
    special = {"transform_input": True, "aux_logits": False, "init_weights": True} if arch in CONVERTING else {}
    network: nn.Module = models.get_model(arch, weights=None, **special)
    return network.eval()


def layer_names(classifier: nn.Module, pattern: str = ".*") -> list[str]:
    """Names that match the pattern, of all steps of the forward pass and of the modules that they belong to, in
    order."""
    steps = (node.split(".") for node in get_graph_node_names(classifier, suppress_diff_warning=True)[1])
    names = dict.fromkeys(".".join(parts[: i + 1]) for parts in steps for i in range(len(parts)))
    return [n for n in list(names)[1:] if re.fullmatch(pattern, n)]  # the first is the input


def checked_layer(classifier: nn.Module, layer: str, suggested: str) -> str:
    """``layer``, if it is the name of a layer; otherwise raises ``ValueError``, which lists those that match
    ``suggested``."""
    known = layer_names(classifier)
    if layer not in known:
        raise ValueError(
            f"layer: expected the name of a layer, found {layer!r}{checks.nearest(layer, known)}; "
            f"some are {checks.listed(layer_names(classifier, suggested))}"
        )
    return layer


def fill_from(weights: str | Path, arch: str, classifier: nn.Module, *parts: nn.Module) -> None:
    """Fill parts of a network with published weights, or with those of a file.

    Args:
        weights: Name in torchvision (``IMAGENET1K_V1``, ``DEFAULT``), a file, or a model folder.
        arch: Name of the network in torchvision.
        classifier: The network.
        parts: Modules whose layers have the same names as in the network.

    Raises:
        ValueError: The name of weights is unknown.
        MissingWeightsError: The weights are not on this machine and cannot be downloaded.
        UnreadableWeightsError: The file does not fit the network.
    """
    file = locate(weights, _published(arch))
    state = _renamed(read_weights(file))
    for part in parts:
        fill(part, of_module(part, state, file), file, known=classifier.state_dict().keys())


def _published(arch: str) -> dict[str, str]:
    """Names of torchvision's weights of a network, and their URLs."""
    weights = models.get_model_weights(arch)
    return {**{w.name: w.url for w in weights}, "DEFAULT": weights.DEFAULT.url}


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of DenseNet are published under older names: ``norm.1`` is ``norm1`` today."""
    pattern = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
    return {pattern.sub(r"\1\2.", name): tensor for name, tensor in state.items()}
