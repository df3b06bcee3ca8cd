from __future__ import annotations

import torch

from objemb.aggregators.keep import Keep
from objemb.structures import RegionDescriptors, Regions


def test_keeps_everything() -> None:
    described = RegionDescriptors("a", Regions.whole((4, 5)), torch.ones(1, 1))
    assert Keep().aggregate(described) is described
