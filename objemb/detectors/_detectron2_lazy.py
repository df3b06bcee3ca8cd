"""Configs of Detectron2 that are programs in Python (LazyConfig): the embedding head in them, and what a model keeps.

A model folder keeps the ``model`` of such a config as plain values. What is built from them are parts of Detectron2 and
layers of PyTorch only, because a folder may come from an untrusted source. This module needs Detectron2, so it is
imported inside functions only.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall, LazyConfig
from detectron2.modeling import FPN, META_ARCH_REGISTRY, ResNet
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.utils.registry import Registry
from omegaconf import DictConfig, OmegaConf, SCMode
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from objemb import checks, registry
from objemb.detectors._detectron2_heads import LOSSES, WITH_EMBEDDINGS, WITH_TRUNK_LEVELS
from objemb.heads.base import Head
from objemb.types import Settings

#: Key of a network in such a config, and what a model keeps beside it: the sides of the input, and names of data sets.
NETWORK, SIDES, DATASETS = "model", "sides", "datasets"
#: Key of what is called with the other keys of its mapping; in the plain values of a model, also keys of a class or
#: function itself, and of one with some of its arguments.
TARGET, NAMED, PARTIAL = "_target_", "_name_", "_partial_"
#: Of the argument ``weights``, by which Detectron2 scales the offsets of boxes: a model folder has no value under this
#: name, which stands for files in its settings.
WEIGHTS, SCALES = "weights", "_weights_"
#: Where the parts of a network may come from.
DETECTRON2 = ("detectron2.modeling.", "detectron2.layers.")
LAYERS = ("torch.nn.",)
PARTS = (*DETECTRON2, *LAYERS)
#: Networks of another project, which open files.
FOREIGN = ("detectron2.modeling.mmdet_wrapper",)
#: References to other keys; resolvers, which may read the environment, are none.
REFERENCE = re.compile(r"\$\{[\w.\[\]]+\}")
#: Keys of ROI heads that belong to the embedding head.
OWN = "embedding_"
DEFAULTS: dict[str, object] = {"loss": "cosine", "loss_weight": 1.0, "proposals": 32, "object_side": 0.0}
#: Keys of box predictors, by settings of the detector.
LIMITS = {"score_threshold": "test_score_thresh", "nms_iou": "test_nms_thresh", "max_detections": "test_topk_per_image"}
DEFAULT_HEAD = {"name": "embedding", "dim": 128}


def is_lazy(content: Mapping[str, object]) -> bool:
    """Whether the contents of a config are those of a LazyConfig."""
    return NETWORK in content


def add_embedding_head_lazy_config(cfg: object, head: Settings | None, **training: object) -> None:
    """See :func:`objemb.detectors.detectron2_rcnn.add_embedding_head_lazy_config`."""
    model = _network_of(cfg)
    heads = _section(model, "roi_heads", NETWORK)
    for key in training:
        checks.one_of("add_embedding_head_lazy_config", key, tuple(DEFAULTS))
    checks.one_of("loss", training.get("loss", DEFAULTS["loss"]), LOSSES)
    _all_stages(model)
    _exchange(model, NETWORK, WITH_TRUNK_LEVELS, META_ARCH_REGISTRY)
    _exchange(heads, f"{NETWORK}.roi_heads", WITH_EMBEDDINGS, ROI_HEADS_REGISTRY)
    if head is not None or f"{OWN}head" not in heads:
        heads[f"{OWN}head"] = LazyCall(lazy_head)(**(DEFAULT_HEAD if head is None else head))
    for key, default in DEFAULTS.items():
        if key in training or f"{OWN}{key}" not in heads:
            heads[f"{OWN}{key}"] = training.get(key, default)


def lazy_head(**settings: object) -> Head:
    """A head of objemb that a network connects to its maps; the arguments are ``head:`` in a config of objemb."""
    head: Head = registry.build(Head, _container(settings))
    return head


def lazy_content(file: Path, opts: Sequence[object] = ()) -> dict[str, object]:
    """What a model keeps of a program: the network, the sides of its input, and the names of its data sets.

    Args:
        file: The program, which is run.
        opts: Overrides: key, value, key, value ...

    Raises:
        ValueError: The program cannot be run, or has values that cannot be kept, such as functions without a name.
    """
    try:
        cfg = LazyConfig.load(str(file))
    except Exception as error:  # a program may raise anything
        raise ValueError(
            f"{file}: expected a LazyConfig of Detectron2, found a program that raises {type(error).__name__}: {error}"
        ) from error
    if not isinstance(cfg.get(NETWORK), DictConfig):
        raise ValueError(
            f"{file}: expected a LazyConfig with {NETWORK!r}, found {checks.listed(list(cfg)) or 'no keys'}"
        )
    _override(cfg, opts)
    kept = OmegaConf.to_container(cfg[NETWORK], resolve=False, structured_config_mode=SCMode.INSTANTIATE)
    content: dict[str, object] = {NETWORK: _plain(kept, NETWORK)}
    sides = next(_test_sizes(cfg), None)
    names = OmegaConf.select(cfg, "dataloader.train.dataset.names", default=[])
    several = [names] if isinstance(names, str) else names
    return {**content, SIDES: sides, DATASETS: [str(name) for name in several]}


def lazy_network(content: Settings, opts: Sequence[object], limits: Mapping[str, Any]) -> DictConfig:
    """The network in the contents of a config, see :func:`lazy_content`, without its embedding head, which belongs to a
    describer.

    Args:
        content: The contents.
        opts: Overrides: key, value, key, value ...
        limits: ``num_classes``, ``score_threshold``, ``nms_iou`` and ``max_detections`` of
            :class:`objemb.detectors.detectron2_rcnn.Detectron2Rcnn`; None for those of the config.

    Returns:
        What is instantiated.

    Raises:
        ValueError: A part of the network is not one of Detectron2, or the network is none with ROI heads.
    """
    plain = {NETWORK: copy.deepcopy(content[NETWORK])}
    _override(plain, opts)  # before the values are checked, since a folder brings its overrides, too
    cfg = OmegaConf.create({NETWORK: _restored(plain[NETWORK], NETWORK)}, flags={"allow_objects": True})
    model = cfg[NETWORK]
    heads = _section(model, "roi_heads", NETWORK)
    for key in [key for key in heads if str(key).startswith(OWN)]:
        del heads[key]
    _exchange(model, NETWORK, {new: old for old, new in WITH_TRUNK_LEVELS.items()}, META_ARCH_REGISTRY)
    _exchange(heads, f"{NETWORK}.roi_heads", {new: old for old, new in WITH_EMBEDDINGS.items()}, ROI_HEADS_REGISTRY)
    checks.one_of(f"{NETWORK}.{TARGET}", _kind(model, NETWORK), ["GeneralizedRCNN"])
    generator = f"{NETWORK}.proposal_generator"
    checks.one_of(f"{generator}.{TARGET}", _kind(_section(model, "proposal_generator", NETWORK), generator), ["RPN"])
    if heads.get("keypoint_in_features") is not None:
        raise ValueError(f"{NETWORK}.roi_heads: expected no keypoint head, found one; leave keypoint_in_features out")
    checks.one_of(f"{NETWORK}.input_format", model.input_format, ("BGR", "RGB"))
    _all_stages(model)
    for predictor in predictors(model):
        predictor.update({key: limits[name] for name, key in LIMITS.items() if limits.get(name) is not None})
    if limits.get("num_classes") is not None:
        heads.num_classes = limits["num_classes"]
    return model


def lazy_sides(content: Settings, min_size: int | None, max_size: int | None) -> tuple[int, int]:
    """Shorter side of the input and limit of the longer one, in pixels: those given, or those of the config.

    Raises:
        ValueError: They are not known.
    """
    low, high = content.get(SIDES) or (None, None)
    low, high = min_size or low, max_size or high
    if low is None or high is None:
        raise ValueError(
            "min_size, max_size: expected both beside a program without ResizeShortestEdge in "
            f"dataloader.test.mapper.augmentations, found {low} and {high}"
        )
    return checks.whole("min_size", low), checks.whole("max_size", high)


def lazy_datasets(content: Settings) -> tuple[str, ...]:
    """Names of the data sets of a config, see :func:`lazy_content`."""
    return tuple(str(name) for name in content.get(DATASETS, ()))


def predictors(model: DictConfig) -> list[DictConfig]:
    """The box predictors of a network: one, or one of each stage of a cascade."""
    heads = model.roi_heads
    return list(heads.box_predictors) if "box_predictors" in heads else [heads.box_predictor]


def embedding_settings(content: Settings) -> tuple[dict[str, object], float]:
    """The head of a config, as ``head:`` in a config of objemb, and the side at which it describes objects, 0 for their
    own. Where the program has none, they are the defaults."""
    heads = content[NETWORK]["roi_heads"]
    head = heads.get(f"{OWN}head") or DEFAULT_HEAD
    return {k: v for k, v in head.items() if k != TARGET}, float(heads.get(f"{OWN}object_side") or 0.0)


def _exchange(part: DictConfig, where: str, others: Mapping[str, str], kinds: Registry) -> str:
    """Make a part of the class that belongs to its own, and return the name of the class.

    Args:
        part: The part.
        where: Its key.
        others: Names of classes, and of those that take their place.
        kinds: The classes by name.
    """
    name = checks.one_of(f"{where}.{TARGET}", _kind(part, where), [*others, *others.values()])
    part[TARGET] = kinds.get(others.get(name, name))
    return str(name)


def _network_of(cfg: object) -> DictConfig:
    model = cfg.get(NETWORK) if isinstance(cfg, Mapping | DictConfig) else None
    if not isinstance(model, DictConfig):
        raise TypeError(
            f"cfg: expected a LazyConfig with {NETWORK!r}, as LazyConfig.load gives it, found {type(cfg).__name__}; "
            "add_embedding_head_config is for a CfgNode"
        )
    return model


def _section(part: DictConfig, key: str, where: str) -> DictConfig:
    section = part.get(key)
    if not isinstance(section, DictConfig):
        raise ValueError(
            f"{where}: expected a network with ROI heads, such as Faster, Mask or Cascade R-CNN, found "
            f"{part.get(TARGET)}, which has no {key}: an embedding head pools the features of boxes as they do"
        )
    return section


def _kind(part: DictConfig, where: str) -> str:
    """The name of the class that a part is made of."""
    target = part.get(TARGET)
    if target is None:
        raise ValueError(f"{where}: expected {TARGET}, found {checks.listed([str(key) for key in part]) or 'no keys'}")
    return target.rpartition(".")[2] if isinstance(target, str) else str(getattr(target, "__name__", target))


def _all_stages(model: DictConfig) -> None:
    """Keep all stages of a ResNet, so that features can be read from each of them."""
    backbone = model.backbone
    if _kind(backbone, f"{NETWORK}.backbone") == FPN.__name__:
        backbone = backbone.bottom_up
    if _kind(backbone, f"{NETWORK}.backbone") == ResNet.__name__:
        above = max(int(str(name).removeprefix("res")) for name in backbone.out_features)
        wanted = [f"res{stage}" for stage in range(2, above + 1)]
        if model.backbone is not backbone and OmegaConf.is_interpolation(model.backbone, "in_features"):
            model.backbone.in_features = list(backbone.out_features)
        backbone.out_features = wanted


def _override(cfg: Any, opts: Sequence[object]) -> None:
    """Set values of a config, or of its plain form, in place."""
    if len(opts) % 2:
        raise ValueError(f"opts: expected key, value, key, value ..., found {len(opts)} entries")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        node, path = cfg, str(key).split(".")
        try:
            for name in path[:-1]:
                node = node[_place(node, name)]
            node[_place(node, path[-1])] = value
        except (KeyError, IndexError, TypeError, ValueError, OmegaConfBaseException) as error:
            raise ValueError(f"opts: expected keys of the LazyConfig, found {key!r}") from error


def _place(node: Any, name: str) -> str | int:
    """Key or index of a part of a node."""
    if isinstance(node, list) or OmegaConf.is_list(node):
        return int(name)
    return SCALES if name == WEIGHTS and SCALES in node else name


def _test_sizes(cfg: DictConfig) -> Iterator[list[int]]:
    """Shorter side and limit of the longer one of photos, as far as the loader of the test says them."""
    for step in OmegaConf.select(cfg, "dataloader.test.mapper.augmentations", default=[]):
        if _kind(step, "augmentations") == "ResizeShortestEdge":
            short = step.short_edge_length
            yield [int(short if isinstance(short, int) else short[0]), int(step.max_size)]


def _container(value: object) -> Any:
    """Nodes of OmegaConf as dicts and lists."""
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    return {k: _container(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _plain(value: object, where: str) -> object:
    """Plain values that :func:`_restored` turns back: classes and functions by their names."""
    if isinstance(value, Mapping):
        return {SCALES if k == WEIGHTS else str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
        return {TARGET: _name_of(type(value), where), **named}
    if isinstance(value, functools.partial):
        if value.args:
            raise ValueError(f"{where}: expected a partial with named arguments only, found {value}")
        return {PARTIAL: _name_of(value.func, where), **{k: _plain(v, where) for k, v in value.keywords.items()}}
    if where.endswith(f".{TARGET}"):
        return value if isinstance(value, str) else _name_of(value, where)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return {NAMED: _name_of(value, where)}
    raise ValueError(f"{where}: expected a value that a model folder can keep, found {type(value).__name__}")


def _name_of(value: object, where: str) -> str:
    """The dotted name of a class or function, by which it can be found again."""
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if "<" in name or not name.strip("."):
        raise ValueError(
            f"{where}: expected a class or function with a name, since a model folder keeps it, found {value!r}; name "
            f"another, such as {where}=LN, in the program or in opts"
        )
    _found(name, where)
    return name


def _found(name: str, where: str) -> Callable[..., object]:
    """The class or function of a name, if it is a part of networks.

    Raises:
        ValueError: It is another, or none.
    """
    ours = [lazy_head, *map(META_ARCH_REGISTRY.get, WITH_TRUNK_LEVELS.values())]
    for value in [*ours, *map(ROI_HEADS_REGISTRY.get, WITH_EMBEDDINGS.values())]:
        if name == f"{value.__module__}.{value.__qualname__}":
            return value  # type: ignore[no-any-return]  # a class or function
    value = None
    if name.startswith(PARTS) and not name.startswith(FOREIGN):
        with contextlib.suppress(ImportError, AttributeError, ValueError):
            value = pkgutil.resolve_name(name)
    home = f"{getattr(value, '__module__', None)}."
    layer = inspect.isclass(value) and issubclass(value, nn.Module) and home.startswith(LAYERS)
    part = (inspect.isclass(value) or inspect.isroutine(value)) and home.startswith(DETECTRON2)
    if layer or part:
        return value  # type: ignore[no-any-return]  # a class or function
    raise ValueError(
        f"{where}: expected a part of a network from {checks.listed([p.rstrip('.') for p in PARTS])}, found {name!r}; "
        "such a network works in Detectron2, where add_embedding_head_lazy_config and describe_boxes take it, but a "
        "model folder keeps no others, since it builds what it names"
    )


def _restored(value: object, where: str) -> object:
    """The values of a config from their plain ones."""
    if isinstance(value, Mapping):
        keys = {k: WEIGHTS if k == SCALES else k for k in value if k not in (TARGET, NAMED, PARTIAL)}
        inner = {key: _restored(value[k], f"{where}.{key}") for k, key in keys.items()}
        if NAMED in value:
            return _found(str(value[NAMED]), where)
        if PARTIAL in value:
            return functools.partial(_found(str(value[PARTIAL]), where), **inner)
        if TARGET in value:
            target = _found(str(value[TARGET]), where)  # OmegaConf would make an instance of a data class
            return {TARGET: str(value[TARGET]) if is_dataclass(target) else target, **inner}
        return inner
    if isinstance(value, list | tuple):
        return [_restored(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, str) and "${" in value and not REFERENCE.fullmatch(value):
        raise ValueError(
            f"{where}: expected a value, or a reference to a key such as ${{..num_classes}}, found {value!r}"
        )
    return value
