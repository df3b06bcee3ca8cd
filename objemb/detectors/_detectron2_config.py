"""YAML configs of Detectron2: finding them, overriding their keys, and the node of the embedding head.

This module needs Detectron2, so it is imported inside functions only. ``detectron2.model_zoo`` is never imported,
because it does not work with current setuptools; the config files are read directly.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

from objemb import checks
from objemb.detectors._detectron2_heads import (
    WITH_EMBEDDINGS,
    WITH_TRUNK_LEVELS,
    WithEmbeddings,
    embedding_head_node,
    objemb_backbone_node,
)
from objemb.detectors._detectron2_lazy import is_lazy, lazy_content
from objemb.detectors._detectron2_trunk import stages_for_levels
from objemb.types import Settings

FORMATS = ("BGR", "RGB")
#: Sections that define a network; that of the datasets gives the names of classes.
NETWORK_KEYS = ("VERSION", "MODEL", "INPUT", "TEST", "DATASETS")
#: Suffix of configs that are programs.
PROGRAM = ".py"
#: Key of the base of a config.
BASE = "_BASE_"
#: Projects that Detectron2 brings and that change an R-CNN: a key of theirs, the module, and the function with their
#: keys.
PROJECTS = {"POINT_HEAD": ("detectron2.projects.point_rend", "add_pointrend_config")}
#: ROI heads and networks with and without embeddings.
PLAIN = {embedding: plain for plain, embedding in {**WITH_EMBEDDINGS, **WITH_TRUNK_LEVELS}.items()}


def read_file(config: str | Path, opts: Sequence[object] = ()) -> dict[str, object]:
    """Read a config file and the files that it is based on, as plain values; YAML must not contain anything else, and a
    program (LazyConfig) is run.

    Args:
        config: A file, or the name of a config that comes with Detectron2.
        opts: Overrides of a program, needed where it has values that have no form as plain ones.

    Raises:
        FileNotFoundError: It is neither a file nor the name of a config that comes with Detectron2.
        ValueError: It is not a Detectron2 config, or one of a network without boxes of its own ROI heads.
    """
    file = find_file(config)
    if file.suffix == PROGRAM:
        return lazy_content(file, opts)
    try:
        node = CfgNode.load_yaml_with_base(str(file), allow_unsafe=False)
        return {str(key): _plain(value) for key, value in node.items()}
    except Exception as error:  # PyYAML and yacs have their own, fvcore raises plain ones
        architecture = _architecture(file)
        if architecture is not None:
            expect_roi_heads(str(file), architecture)
        tag = re.search(r"python/[\w/:.]+", str(error))
        advice = "; write the value that it stands for, since a config is read and not run" if tag else ""
        raise ValueError(
            f"{file}: expected a Detectron2 config, found: {' '.join(str(error).split())}{advice}"
        ) from error


def of_network(content: Settings) -> dict[str, object]:
    """The part of a config that defines the network and its input, without training settings and files of weights."""
    if is_lazy(content):
        return dict(content)
    kept = {key: content[key] for key in NETWORK_KEYS if key in content}
    model = {k: v for k, v in content.get("MODEL", {}).items() if k != "WEIGHTS"}
    if isinstance(model.get("OBJEMB_BACKBONE"), Mapping):
        model["OBJEMB_BACKBONE"] = {**model["OBJEMB_BACKBONE"], "weights": ""}
    return {**kept, "MODEL": model}


def rcnn_config(content: Mapping[str, object], opts: Sequence[object]) -> CfgNode:
    """The complete config of a Faster or Mask R-CNN.

    An embedding head in it is left out, because heads belong to describers; all stages of a ResNet are kept, so that
    features can be pooled from them. Sections of a training, and unknown keys of the input and the test, are left out.

    Args:
        content: The config, from :func:`read_file`.
        opts: Overrides: key, value, key, value ...

    Raises:
        ValueError: Detectron2 does not accept a key or value, or the network is of another kind.
    """
    cfg = with_nodes(get_cfg())
    try:
        _merge(cfg, content)
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: expected keys and values of Detectron2, found: {reason}") from error
    heads, model = cfg.MODEL.ROI_HEADS, cfg.MODEL
    heads.NAME, model.META_ARCHITECTURE = (PLAIN.get(n, n) for n in (heads.NAME, model.META_ARCHITECTURE))
    expect_roi_heads("config", model.META_ARCHITECTURE)
    checks.one_of("config: MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, ["GeneralizedRCNN"])
    checks.one_of("config: MODEL.ROI_HEADS.NAME", heads.NAME, WITH_EMBEDDINGS)
    checks.one_of("config: MODEL.PROPOSAL_GENERATOR.NAME", model.PROPOSAL_GENERATOR.NAME, ["RPN"])
    checks.one_of("config: MODEL.KEYPOINT_ON", model.KEYPOINT_ON, [False])
    checks.one_of("config: INPUT.FORMAT", cfg.INPUT.FORMAT, FORMATS)
    stages_for_levels(cfg)
    model.DEVICE = "cpu"
    return cfg


def with_nodes(cfg: CfgNode) -> CfgNode:
    """The config itself, with the nodes of the embedding head and of the networks of objemb; existing nodes stay."""
    for key, node in (("ROI_EMBEDDING_HEAD", embedding_head_node()), ("OBJEMB_BACKBONE", objemb_backbone_node())):
        if key not in cfg.MODEL:
            cfg.MODEL[key] = node
    return cfg


def add_embedding_head_config(cfg: CfgNode) -> None:
    """See :func:`objemb.detectors.detectron2_rcnn.add_embedding_head_config`."""
    with_nodes(cfg)
    heads, model = cfg.MODEL.ROI_HEADS, cfg.MODEL
    object.__setattr__(model, "__class__", _Model)  # a new node would not be the one that others hold
    object.__setattr__(heads, "__class__", _RoiHeads)
    model.META_ARCHITECTURE = model.META_ARCHITECTURE
    heads.NAME = heads.NAME


def embedding_config(file: str | Path, opts: Sequence[object] = ()) -> CfgNode:
    """See :func:`objemb.detectors.detectron2_rcnn.embedding_config`."""
    cfg, path = get_cfg(), find_file(file)
    if path.suffix == PROGRAM:
        raise ValueError(
            f"{path}: expected a YAML config, found a program (LazyConfig); load it by LazyConfig.load, call "
            "add_embedding_head_lazy_config on it, and build its model by instantiate"
        )
    add_embedding_head_config(cfg)
    for key, (module, function) in PROJECTS.items():
        if key in path.read_text(encoding="utf-8"):
            getattr(importlib.import_module(module), function)(cfg)
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(list(opts))
    beside = path.parent / cfg.MODEL.WEIGHTS
    if cfg.MODEL.WEIGHTS and beside.is_file():
        cfg.MODEL.WEIGHTS = str(beside.resolve())
    return cfg


class _AsPlain(type):
    """Classes of nodes that yacs, which compares types before it merges, takes for Detectron2's."""

    def __eq__(cls, other: object) -> bool:
        return other is CfgNode or isinstance(other, _AsPlain)

    __hash__ = type.__hash__


class _Model(CfgNode, metaclass=_AsPlain):  # type: ignore[misc]  # no types
    """``MODEL`` of a config with an embedding head: whatever is merged later, the network has ROI heads and gives them
    the levels of its trunk."""

    def __setitem__(self, key: str, value: object) -> None:
        if key == "META_ARCHITECTURE":
            value = WITH_TRUNK_LEVELS.get(expect_roi_heads("MODEL.META_ARCHITECTURE", str(value)), value)
        super().__setitem__(key, value)


class _RoiHeads(CfgNode, metaclass=_AsPlain):  # type: ignore[misc]  # no types
    """``MODEL.ROI_HEADS`` of a config with an embedding head: ROI heads that are named later get embeddings as well."""

    def __setitem__(self, key: str, value: object) -> None:
        if key == "NAME":
            value = WITH_EMBEDDINGS.get(_expect_known_heads(str(value)), value)
        super().__setitem__(key, value)


def expect_roi_heads(where: str, architecture: str) -> str:
    """The name of a network, if it is one with ROI heads, which an embedding head needs.

    Raises:
        ValueError: It is another, such as RetinaNet, or unknown.
    """
    known = dict(iter(META_ARCH_REGISTRY))
    kind = known.get(architecture)
    if kind is None:
        raise ValueError(
            f"{where}: expected a network of Detectron2's registry, found {architecture!r}"
            f"{checks.nearest(architecture, known)}; import the module that registers it first"
        )
    if not issubclass(kind, GeneralizedRCNN):
        raise ValueError(
            f"{where}: expected a network with ROI heads, such as Faster, Mask or Cascade R-CNN or Panoptic FPN "
            f"({checks.listed(WITH_TRUNK_LEVELS)}), found {architecture}, which has none: an embedding head pools the "
            "features of boxes as they do"
        )
    return architecture


def _expect_known_heads(name: str) -> str:
    known = [*WITH_EMBEDDINGS, *WITH_EMBEDDINGS.values()]
    kind = dict(iter(ROI_HEADS_REGISTRY)).get(name)
    if kind is not None and issubclass(kind, WithEmbeddings):
        return name
    try:
        return str(checks.one_of("MODEL.ROI_HEADS.NAME", name, known))
    except ValueError as error:
        raise ValueError(
            f"{error}; heads of your own get embeddings by the mixin "
            "objemb.detectors._detectron2_heads.WithEmbeddings as their first base"
        ) from None


def find_file(config: str | Path) -> Path:
    """The file of a config: a path, or the name of one that comes with Detectron2.

    Raises:
        FileNotFoundError: There is none.
    """
    file = Path(config).expanduser()
    if file.is_file():
        return file
    shipped = Path(str(resources.files("detectron2"))) / "model_zoo" / "configs"
    if (shipped / file).is_file():
        return shipped / file
    known = sorted(str(p.relative_to(shipped)) for p in shipped.glob("COCO-*/*rcnn*.yaml"))
    raise FileNotFoundError(
        "config: expected a YAML file, or the name of a config that comes with Detectron2 such as "
        f"COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, found neither at {config}{checks.nearest(config, known)}"
    )


def _architecture(file: Path) -> str | None:
    """The network of a config that cannot be read because it contains tags of Python; None if it does not say."""
    try:
        content = CfgNode.load_cfg(re.sub(r"!!python/\S+", "", file.read_text(encoding="utf-8")))
    except Exception:  # PyYAML and yacs have their own
        return None
    named = content.get("MODEL", {}).get("META_ARCHITECTURE")
    if named is None and isinstance(content.get(BASE), str):
        base = file.parent / content[BASE]
        return _architecture(base) if base.is_file() else None
    return None if named is None else str(named)


def _merge(cfg: CfgNode, content: Mapping[str, object]) -> None:
    """Merge the sections of a config that define a network."""
    sections = {key: content[key] for key in NETWORK_KEYS if key in content}
    model = sections.setdefault("MODEL", {})
    if not isinstance(model, Mapping):
        raise ValueError(f"MODEL: expected keys, found {model!r}")
    for key, (module, function) in PROJECTS.items():
        if key in model:
            getattr(importlib.import_module(module), function)(cfg)
    unknown = _unknown(cfg.MODEL, model, "MODEL")
    if unknown:
        raise ValueError(
            f"{checks.listed(unknown)}, which are not keys of Detectron2. If they are those of another project and do "
            "not change the network, leave them out of the file; a network that they change cannot be built here, but "
            "runs in Detectron2, where add_embedding_head_config and describe_boxes work with it"
        )
    for key, section in sections.items():
        if key != "MODEL" and isinstance(section, Mapping):
            sections[key] = {k: v for k, v in section.items() if k in cfg[key]}
    cfg.merge_from_other_cfg(CfgNode(sections))


def _unknown(cfg: CfgNode, section: Mapping[str, object], path: str) -> list[str]:
    """The dotted keys of a section that a config does not have."""
    unknown = []
    for key, value in section.items():
        if key not in cfg:
            if not cfg.is_new_allowed():
                unknown.append(f"{path}.{key}")
        elif isinstance(value, Mapping) and isinstance(cfg[key], CfgNode):
            unknown += _unknown(cfg[key], value, f"{path}.{key}")
    return unknown


def _plain(value: object) -> object:
    """Nodes as dicts and tuples as lists, as in JSON and YAML."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
