"""What the contract tests share: photos, boxes, and the plug-ins of objemb with their smallest settings."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb import registry
from objemb.aggregators.base import FeatureAggregator
from objemb.describers.base import PhotoDescriber
from objemb.layers.context_attention import ContextAttention
from objemb.layers.fitted import Fitted
from objemb.layers.local_attention import LocalAttention
from objemb.local_features.base import LocalExtractor
from objemb.pooling.base import Pooling
from objemb.registry.settings import REQUIRED
from objemb.structures import LocalFeatures, Photo, RegionFeatures, Regions
from objemb.types import AnyArray
from tests.tiny import random_photo

Settings = dict[str, Any]

PHOTOS = [
    random_photo(40, 60, id="a"),
    random_photo(60, 40, seed=1, id="b"),
    random_photo(1, 400, seed=2, id="strip"),
    random_photo(1, 1, seed=3, id="pixel"),
    random_photo(30, 45, seed=4, id="scaled down", size=(299, 450)),
    random_photo(40, 60, seed=5, id="like a"),
]
GIVEN = [
    Regions(torch.tensor([[3.0, 4, 50, 30], [7, 7, 7, 7], [60, 40, 60, 40], [0, 0, 1, 1]]), PHOTOS[0].size),
    Regions.empty(PHOTOS[1].size),
    *(Regions.whole(p.size) for p in PHOTOS[2:]),
]


def module_of_tests(kind: str, name: str) -> ModuleType | None:
    """The tests of a plug-in, where they have a file of their own: ``tests/pooling/test_gem.py``."""
    module = f"tests.{kind}.test_{name}"
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def minimal(kind: str, name: str, folder: Path) -> Settings:
    """The smallest, fastest settings that build a plug-in; the file of its tests says them.

    That is ``MINIMAL``, a mapping, or ``minimal``, a function of an empty folder that gives one, where it takes files.
    Without either the plug-in is built from its defaults.
    """
    tests = module_of_tests(kind, name)
    settings: Settings = tests.minimal(folder) if hasattr(tests, "minimal") else getattr(tests, "MINIMAL", {})
    known = registry.arguments(registry.load(kind, name))
    missing = [key for key, argument in known.items() if argument.default is REQUIRED and key not in settings]
    if missing:
        path = kind.replace(".", "/")
        pytest.fail(
            f"objemb/{path}/{name}.py cannot be built: {', '.join(missing)} have no default; add MINIMAL = {{...}} to "
            f"tests/{path}/test_{name}.py, the smallest and fastest constructor arguments that build it"
        )
    return {"name": name, **settings}


def build(kind: str, name: str, folder: Path, **changed: Any) -> Any:
    """A plug-in of its smallest settings, some of them perhaps changed, ready to use: connected, and fitted."""
    settings = {**minimal(kind, name, folder), **changed}
    torch.manual_seed(0)
    built: Any = registry.build(registry.load(kind, name), settings)
    if isinstance(built, torch.nn.Module):
        ready(built)
    if isinstance(built, FeatureAggregator):
        built.connect(4)
        noise = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).numpy()
        features = LocalFeatures((9, 9), np.ones((200, 2), np.float32), noise)
        whole = RegionFeatures.by_position("noise", Regions.whole((9, 9)), features)
        for part_name, part in built.fitted_parts().items():
            part.fit(built.samples(part_name, [whole]), fitted_on="noise")
    if isinstance(built, Pooling):
        built.connect(4)
        if isinstance(built, Fitted):
            built.fit(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), fitted_on="noise")
    return built


def ready(built: Any) -> Any:
    """A part whose attention is as if it had been trained, and whose parts that learn have learned."""
    for module in built.modules():
        if isinstance(module, (LocalAttention, ContextAttention)):
            torch.nn.init.normal_(module.out.weight)
    if isinstance(built, (PhotoDescriber, LocalExtractor)):
        for part_name, part in built.fitted_parts().items():
            part.fit(built.samples(part_name, PHOTOS), fitted_on="photos of the tests")
    return built


def every(kind: str) -> pytest.MarkDecorator:
    """Parametrises a test with the names of all plug-ins of a kind that come with objemb."""
    return pytest.mark.parametrize("name", [n for n in registry.names(kind) if registry.origin(kind, n) is None])


ALL_DESCRIBERS = [n for n in registry.names("describers") if registry.origin("describers", n) is None]


def in_frame(regions: Regions, photo: Photo) -> bool:
    height, width = photo.size
    low, high = regions.boxes[:, :2], regions.boxes[:, 2:]
    return bool((low >= 0).all() and (low <= high).all() and (high <= [width, height]).all())


def is_whole(regions: Regions, photo: Photo) -> bool:
    return regions.boxes[0].tolist() == [0, 0, photo.size[1], photo.size[0]]


def unit_or_zero(vectors: AnyArray | Tensor) -> bool:
    lengths = torch.as_tensor(vectors).norm(dim=1)
    return bool(((lengths - 1).abs() < 1e-4).logical_or(lengths == 0).all())
