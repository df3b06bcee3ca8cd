from __future__ import annotations

import torch

from objemb.ops.region_sum import first_summed
from objemb.structures import Regions

SIZE = (40, 60)
WHOLE = Regions.whole(SIZE)
BOX = Regions(torch.tensor([[0.0, 0, 60, 39]]), SIZE)


def test_the_whole_image_joins_where_it_shall_or_is_alone() -> None:
    assert first_summed(Regions.cat([WHOLE, BOX]), whole_image=False) == 1
    assert first_summed(Regions.cat([WHOLE, BOX]), whole_image=True) == 0
    assert first_summed(Regions.cat([BOX, WHOLE]), whole_image=False) == 0
    assert first_summed(WHOLE, whole_image=False) == 0
    assert first_summed(Regions.empty(SIZE), whole_image=False) == 0
