"""Configs of Detectron2: finding them, overriding their keys, and the node of the embedding head.

This module needs Detectron2, so it is imported inside functions only. ``detectron2.model_zoo`` is never imported,
because it does not work with current setuptools; the config files are read directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from objemb import checks
from objemb.detectors._detectron2_heads import WITH_EMBEDDINGS, embedding_head_node
from objemb.types import Settings

FORMATS = ("BGR", "RGB")
#: Sections that define a network; that of the datasets gives the names of classes.
NETWORK_KEYS = ("VERSION", "MODEL", "INPUT", "TEST", "DATASETS")


def read_file(config: str | Path) -> dict[str, object]:
    """Read a config file and the files that it is based on, as plain values; the YAML must not contain anything else.

    Raises:
        FileNotFoundError: It is neither a file nor the name of a config that comes with Detectron2.
        ValueError: It is not a Detectron2 config.
    """
    file = _find(config)
    try:
        node = CfgNode.load_yaml_with_base(str(file), allow_unsafe=False)
        return {str(key): _plain(value) for key, value in node.items()}
    except Exception as error:  # PyYAML and yacs have their own, fvcore raises plain ones
        raise ValueError(f"{file}: expected a Detectron2 config, found: {' '.join(str(error).split())}") from error


def of_network(content: Settings) -> dict[str, object]:
    """The part of a config that defines the network and its input, without training settings and paths."""
    kept = {key: content[key] for key in NETWORK_KEYS if key in content}
    return {**kept, "MODEL": {k: v for k, v in content.get("MODEL", {}).items() if k != "WEIGHTS"}}


def rcnn_config(content: Mapping[str, object], opts: Sequence[object]) -> CfgNode:
    """The complete config of a Faster or Mask R-CNN.

    An embedding head in it is left out, because heads belong to describers; all stages of a ResNet are kept, so that
    features can be pooled from them.

    Args:
        content: The config, from :func:`read_file`.
        opts: Overrides: key, value, key, value ...

    Raises:
        ValueError: Detectron2 does not accept a key or value, or the network is of another kind.
    """
    cfg = get_cfg()
    cfg.MODEL.ROI_EMBEDDING_HEAD = embedding_head_node()
    try:
        cfg.merge_from_other_cfg(CfgNode(dict(content)))
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"config: expected keys and values of Detectron2, found: {reason}") from error
    plain_heads = {embedding: plain for plain, embedding in WITH_EMBEDDINGS.items()}
    cfg.MODEL.ROI_HEADS.NAME = plain_heads.get(cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NAME)
    checks.one_of("config: MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, ["GeneralizedRCNN"])
    checks.one_of("config: MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, WITH_EMBEDDINGS)
    checks.one_of("config: MODEL.PROPOSAL_GENERATOR.NAME", cfg.MODEL.PROPOSAL_GENERATOR.NAME, ["RPN"])
    checks.one_of("config: MODEL.KEYPOINT_ON", cfg.MODEL.KEYPOINT_ON, [False])
    checks.one_of("config: INPUT.FORMAT", cfg.INPUT.FORMAT, FORMATS)
    stages = [int(name.removeprefix("res")) for name in cfg.MODEL.RESNETS.OUT_FEATURES if name.startswith("res")]
    cfg.MODEL.RESNETS.OUT_FEATURES = [f"res{stage}" for stage in range(2, max(stages, default=1) + 1)]
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def add_embedding_head_config(cfg: CfgNode) -> None:
    """See :func:`objemb.detectors.detectron2_rcnn.add_embedding_head_config`."""
    if "ROI_EMBEDDING_HEAD" not in cfg.MODEL:
        cfg.MODEL.ROI_EMBEDDING_HEAD = embedding_head_node()
    known = [*WITH_EMBEDDINGS, *WITH_EMBEDDINGS.values()]
    name = checks.one_of("MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, known)
    cfg.MODEL.ROI_HEADS.NAME = WITH_EMBEDDINGS.get(name, name)


def _find(config: str | Path) -> Path:
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


def _plain(value: object) -> object:
    """Nodes as dicts and tuples as lists, as in JSON and YAML."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
