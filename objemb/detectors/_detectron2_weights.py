"""Weights for Detectron2's networks: from its model zoo, its trainer, Detectron1, and classification networks.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor

from objemb import checks
from objemb.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from objemb.checks import MissingWeightsError
from objemb.detectors._detectron2_trunk import ObjembTrunk, trunk_of, trunk_prefix
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file
from objemb.weights.pickled_arrays import UnreadablePickleError, read_pickled_arrays
from objemb.weights.read import UnreadableWeightsError, read_weights

if TYPE_CHECKING:
    from detectron2.modeling import GeneralizedRCNN

#: Prefix of the embedding head in ROI heads with embeddings.
EMBEDDING_HEAD = "roi_heads.embedding_head."
#: Anchors in old files; they are computed from the config instead.
ANCHORS = "anchor_generator.cell_anchors"
#: The last layer of the box classifier, in a cascade that of the first stage.
CLASSIFIERS = ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.0.cls_score.weight")
#: Missing in files of Detectron1, whose batch norms are merged into a scale and a shift.
MERGED = (".running_mean", ".running_var")

#: Parts of a network that weights of a classifier do not fill.
RANDOM_PARTS = ("proposal generator", "ROI heads")

#: Addresses of Detectron2's files, and what stands for their beginning.
SCHEME, STORE = "detectron2://", "https://dl.fbaipublicfiles.com/detectron2/"
NOT_AS_TORCHVISION = (
    "{file}: expected a config that reads pixels as torchvision's ResNet does, with INPUT.FORMAT RGB, "
    "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375] and "
    "MODEL.RESNETS.STRIDE_IN_1X1 False, found others; set them, as in configs/detectron2, or take the weights that "
    "Detectron2's MODEL_ZOO.md lists for this config"
)


@dataclass(frozen=True)
class Filled:
    """What became of a file of weights.

    Attributes:
        unused_head: The file, if it has an embedding head, which is not part of the network; otherwise None.
        random: Parts of the network that the file does not have, which keep their random values.
    """

    unused_head: Path | None
    random: tuple[str, ...]


def fill_network(network: GeneralizedRCNN, weights: str | Path) -> Filled:
    """Fill a ``GeneralizedRCNN`` with weights.

    A file without a box classifier, such as ImageNet weights of Detectron2 or of torchvision, fills only the trunk (in
    a C4 network also the stage above it); the rest keeps its random values.

    Raises:
        MissingWeightsError: The file does not exist.
        UnreadableWeightsError: It cannot be read, or does not fit the network.
        ValueError: It has another number of classes.
    """
    file = local_file(weights)
    given = read_state(network, file)
    state = {k: v for k, v in given.items() if not k.startswith(EMBEDDING_HEAD) and ANCHORS not in k}
    classifiers = [state[k] for k in CLASSIFIERS if k in state]
    random: tuple[str, ...] = ()
    if not classifiers:
        random = RANDOM_PARTS
        state = _completed(network, _of_torchvision(network, state, file), file)
    elif len(classifiers[0]) != network.roi_heads.num_classes + 1:
        raise ValueError(
            f"{file}: expected weights for {network.roi_heads.num_classes} classes, found {len(classifiers[0]) - 1}; "
            f"pass num_classes={len(classifiers[0]) - 1} or their names as classes"
        )
    fill(network, state, file)
    return Filled(file if has_embedding_head(given) else None, random)


def has_embedding_head(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict of a network of Detectron2 has a trained embedding head."""
    return any(k.startswith(EMBEDDING_HEAD) for k in state)


def local_file(weights: str | Path) -> Path:
    """``weights`` as a file on this machine.

    Raises:
        MissingWeightsError: There is none; the message says from where to fetch it, since nothing is downloaded.
    """
    text = str(weights)
    address = f"{STORE}{text.removeprefix(SCHEME)}" if text.startswith(SCHEME) else text
    if re.match(r"https?://", address):
        raise MissingWeightsError(
            f"weights: expected a file, since nothing is downloaded, found {text}; fetch {address} and pass its path"
        )
    try:
        return existing_file(weights, ())
    except MissingWeightsError as error:
        zoo = _zoo_addresses().get(Path(text).name)
        where = (
            f"; fetch {zoo} and pass its path" if zoo else "; MODEL_ZOO.md of Detectron2 has the addresses of its files"
        )
        raise MissingWeightsError(f"{error}{where if Path(text).suffix == '.pkl' else ''}") from error


def read_state(network: GeneralizedRCNN, file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by their names in Detectron2's networks; nothing in it is executed."""
    return _read_pickle(network, file) if file.suffix == ".pkl" else of_module(network, read_weights(file), file)


def _read_pickle(network: GeneralizedRCNN, file: Path) -> Mapping[str, Tensor]:
    """The state dict in a pickle; Detectron2's heuristics translate the names of other programs, where they are said.

    Its own detectors are under ``model`` beside an author; Detectron1's under ``blobs``, or not under anything.
    """
    try:
        content = read_pickled_arrays(file)
    except UnreadablePickleError as error:
        raise UnreadableWeightsError(f"weights: {error}") from error
    if not isinstance(content, Mapping):
        raise UnreadableWeightsError(f"{file}: expected arrays by name, found {type(content).__name__}")
    ours = "model" in content and "__author__" in content
    arrays = content["model"] if ours else content.get("blobs", content)
    state = {k: torch.from_numpy(v) for k, v in arrays.items() if isinstance(v, np.ndarray)}
    if ours and not content.get("matching_heuristics", False):
        return state
    aligned: Mapping[str, Tensor] = align_and_update_state_dicts(network.state_dict(), state, c2_conversion=not ours)
    return aligned


def _of_torchvision(network: GeneralizedRCNN, state: Mapping[str, Tensor], file: Path) -> Mapping[str, Tensor]:
    """ResNet of torchvision by Detectron2's names, and classification networks for the trunk of ``ObjembTrunk``; other
    states as they are.

    Raises:
        ValueError: The config reads pixels otherwise than such a network.
    """
    trunk, prefix = trunk_of(network.backbone), trunk_prefix(network.backbone)
    if isinstance(trunk, ObjembTrunk):
        body = trunk.body.state_dict()
        renamed = {k: f"network.{k}" if f"network.{k}" in body else k for k in state}
        return {**{f"{prefix}body.{renamed[k]}": v for k, v in state.items()}, **_own_normalisation(trunk, prefix)}
    if "layer1.0.conv1.weight" not in state:
        return state
    names = {k: _detectron2_name(k) for k in state}
    mean, std = (network.pixel_mean.flatten().tolist(), network.pixel_std.flatten().tolist())
    differing = [abs(a - 255 * b) for a, b in zip([*mean, *std], [*IMAGENET_MEAN, *IMAGENET_STD], strict=True)]
    block = next(m for m in trunk.stages[0].modules() if hasattr(m, "conv1"))
    last = getattr(block, "conv3", None)
    if network.input_format != "RGB" or max(differing) > 0.1 or (last is not None and block.conv2.stride != (1, 1)):
        raise ValueError(NOT_AS_TORCHVISION.format(file=file))
    strides = [stage[0].conv1.stride for stage in trunk.stages[1:]]
    if last is not None and any(stride != (1, 1) for stride in strides):
        raise ValueError(NOT_AS_TORCHVISION.format(file=file))
    stages = {f"{prefix}{names[k]}": v for k, v in state.items() if names[k] is not None}
    # in a network without pyramid, the last stage belongs to the heads
    own = network.state_dict()
    return {(k if k in own else k.replace(f"{prefix}res5.", "roi_heads.res5.")): v for k, v in stages.items()}


def _own_normalisation(trunk: ObjembTrunk, prefix: str) -> dict[str, Tensor]:
    """The mean and standard deviation of a trunk, which files of classification networks do not have."""
    own = {f"{prefix}body.{k}": v for k, v in trunk.body.state_dict().items()}
    return {k: v for k, v in own.items() if k.removeprefix(f"{prefix}body.") in ("mean", "std")}


def _detectron2_name(name: str) -> str | None:
    """The name in Detectron2's ResNet of a tensor of torchvision's; None for its classifier."""
    if name.startswith("fc."):
        return None
    name = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name if name.startswith("res") else f"stem.{name}"


@functools.cache
def _zoo_addresses() -> dict[str, str]:
    """Addresses of the files of Detectron2's model zoo by their names, from the table in its source, which is not
    imported."""
    source = (Path(str(resources.files("detectron2"))) / "model_zoo" / "model_zoo.py").read_text(encoding="utf-8")
    pairs = re.findall(r'"([\w/.-]+)": "([\w/.-]+\.pkl)"', source)
    return {Path(suffix).name: f"{STORE}{config}/{suffix}" for config, suffix in pairs}


def _completed(network: GeneralizedRCNN, state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights of a classifier for the trunk, and the network's own for everything else."""
    own = network.state_dict()
    trunk = trunk_prefix(network.backbone)
    missing = [k for k in own if k.startswith(trunk) and k not in state and not k.endswith(MERGED)]
    if missing:
        raise UnreadableWeightsError(
            f"{file}: {len(missing)} tensors of the trunk are missing: "
            f"expected {missing[0]!r}, found {checks.listed(list(state)[:3]) or 'nothing'}"
        )
    return {**own, **{k: v for k, v in state.items() if k in own}}
