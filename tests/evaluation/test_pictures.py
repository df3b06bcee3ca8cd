from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from objemb.evaluation.pictures import BY_OBJECT_SIZE, BY_QUERY_SIZE, BY_REGIONS, PRECISION_RECALL, draw_results

UNKNOWN = {"mAP": None, "queries": 0}
SIZES = {"<9 %": {"mAP": 0.2, "queries": 3}, "9-19 %": UNKNOWN, ">75 %": {"mAP": 0.9, "queries": 2}}


def result(method: str, **changes: Any) -> dict[str, Any]:
    points = [{"max_regions": m, "score": s, "figure": "mAP"} for m, s in ((1, 0.3), (5, None), (20, 0.5))]
    sizes = {"by_query_size": SIZES, "by_object_size": SIZES}
    return {"method": method, "precision_recall": [0.5] * 101, **sizes, "by_regions": points, **changes}


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


def test_all_pictures(tmp_path: Path) -> None:
    results = [result("mac"), result("rmac", by_object_size=None, by_regions=None), {"method": "broken", "error": "x"}]
    drawn = draw_results(results, tmp_path / "new", "shop")
    assert [p.name for p in drawn] == [PRECISION_RECALL, BY_QUERY_SIZE, BY_OBJECT_SIZE, BY_REGIONS]
    # the canvas of older matplotlib loses a pixel to the rounding of inches
    assert [Image.open(p).size for p in drawn] == [pytest.approx((460, 370), abs=1)] * 4


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    draw_results([result("mac")], tmp_path, "shop")
    unknown = dict.fromkeys(SIZES, UNKNOWN)
    empty = result("mac", precision_recall=None, by_query_size=unknown, by_object_size=unknown, by_regions=[])
    assert draw_results([empty], tmp_path, "shop") == []
    assert draw_results([{"method": "broken", "error": "x"}], tmp_path, "shop") == []
    assert draw_results([], tmp_path, "shop") == []
    assert list(tmp_path.iterdir()) == []
