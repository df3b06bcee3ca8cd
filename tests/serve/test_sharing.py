"""Shared forward passes: nobody's answer depends on who else asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.models.base import OpenQuery
from objemb.serve.limits import Limits
from objemb.serve.service import Options
from objemb.serve.sharing import COMPARISONS, SharedPasses, WaitingQuery
from objemb.structures import Photo, RegionDescriptors, Regions
from tests.serve.conftest import encoded, indexed, picture, serving


class Rounding:
    """A model whose vectors depend on the number of queries in a pass, as rounding may, where it exceeds a limit."""

    fingerprint = "f" * 64

    def __init__(self, same_up_to: int) -> None:
        self.same_up_to = same_up_to
        self.sizes: list[int] = []

    def query_opened(self, queries: Sequence[OpenQuery]) -> list[RegionDescriptors]:
        self.sizes.append(len(queries))
        if any(query.crop == "broken" for query in queries):
            raise ValueError("broken")
        error = 0 if len(queries) <= self.same_up_to else 1e-7 * len(queries)
        return [
            RegionDescriptors(q.photo.id, Regions.whole(q.photo.size), np.float32([[float(q.photo.id) + error]]))
            for q in queries
        ]


def waiting(model: Any, numbers: Sequence[int], *, shapes: int = 0, broken: int = -1) -> list[WaitingQuery]:
    photos = [Photo(str(n / 100), np.zeros((3, 2, 2), np.uint8), (2, 2)) for n in numbers]
    queries = [OpenQuery(p, p, "whole", "broken" if p.id == str(broken / 100) else "context", 100) for p in photos]
    return [WaitingQuery(model, query, shapes) for query in queries]


def vectors(found: Sequence[Any]) -> list[float]:
    return [float(one.vectors[0, 0]) for one in found]


def test_queries_share_passes_once_these_were_seen_to_change_nothing() -> None:
    model, counted = Rounding(same_up_to=4), list[int]()
    passes = SharedPasses(8, on_pass=counted.append)
    alone = vectors(passes.describe(waiting(model, [1]))) * 7
    assert alone == [pytest.approx(0.01)] * 7
    for _ in range(COMPARISONS):
        assert vectors(passes.describe(waiting(model, [1] * 7))) == alone
    model.sizes.clear()
    counted.clear()
    assert vectors(passes.describe(waiting(model, [1] * 7))) == alone
    assert model.sizes == counted == [4, 2, 1], "powers of two, so that few sizes have to be compared"
    model.sizes.clear()
    passes.describe(waiting(model, [1, 2], shapes=1))
    assert model.sizes == [1, 1, 2], "other shapes are compared first"


def test_queries_do_not_share_where_a_pass_of_several_rounds_in_another_way() -> None:
    model = Rounding(same_up_to=4)
    passes = SharedPasses(8)
    alone = [float(np.float32(n / 100)) for n in range(8)]
    for _ in range(COMPARISONS + 2):
        model.sizes.clear()
        assert vectors(passes.describe(waiting(model, range(8)))) == alone
    assert model.sizes == [1] * 8


def test_filled_passes_are_the_same_whoever_asks() -> None:
    model, counted = Rounding(same_up_to=1), list[int]()
    passes = SharedPasses(4, filled=True, on_pass=counted.append)
    alone = [vectors(passes.describe(waiting(model, [n])))[0] for n in range(6)]
    for _ in range(COMPARISONS + 2):
        model.sizes.clear()
        counted.clear()
        assert vectors(passes.describe(waiting(model, range(6)))) == alone
    assert set(model.sizes) == {4}
    assert counted == [4, 2]


@pytest.mark.parametrize("before", [0, COMPARISONS])
def test_one_that_fails_does_not_fail_the_others(before: int) -> None:
    model = Rounding(same_up_to=8)
    passes = SharedPasses(8)
    for _ in range(before):
        passes.describe(waiting(model, [5, 6]))
    first, second = passes.describe(waiting(model, [5, 6], broken=6))
    assert vectors([first]) == [pytest.approx(0.05)]
    assert isinstance(second, ValueError)


CROP = {
    "name": "pooled_regions",
    "regions": {"name": "whole_image"},
    "backbone": {"name": "narrow_resnet", "width": 16, "blocks": [1, 1, 1, 1], "weights": "random"},
    "extractor": {"name": "crop", "size": 32},
    "pooling": {"name": "mean"},
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """An index of a model of PyTorch, whose crops have one size, with a whitening."""
    import torch

    from objemb.layers.whitening import Whitening
    from objemb.models import build_model

    folder = tmp_path_factory.mktemp("crops")
    torch.manual_seed(0)
    model = build_model({"describer": CROP, "aggregator": {"name": "keep"}})
    noise = torch.nn.functional.normalize(torch.randn(200, 128, generator=torch.Generator().manual_seed(0)))
    model.whitened(Whitening.fit(noise, 16, fitted_on="noise")).save(folder / "model")
    return indexed(folder / "index", photos, folder / "model")


@pytest.mark.parametrize("filled", [False, True])
def test_answers_are_the_same_with_and_without_company(crops: Path, filled: bool) -> None:
    """Byte for byte, by a model whose queries share forward passes."""
    contents = [encoded(picture(seed, (120, 100) if seed % 3 else (90, 140))) for seed in range(8)]
    queries = [json.dumps({"boxes": [[5, 5, 40 + n, 60]] * (1 + (n == 7)), "k": 4}) for n in range(8)]
    options = Options(Limits(window=0.2, passes=4), decoders=2, fill_passes=filled)
    with serving(crops, options) as running:

        def answered(number: int) -> tuple[int, bytes]:
            answer = running.search(contents[number], queries[number])
            return answer.status_code, answer.content

        def shared() -> bool:
            lines = running.client.get("/metrics").text.splitlines()
            figures = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
            return figures["objemb_pass_size_count"] < figures["objemb_pass_size_sum"]

        alone = [answered(n) for n in range(8)]
        assert {status for status, _ in alone} == {200}
        assert not shared()
        with ThreadPoolExecutor(8) as pool:
            for _ in range(50):
                assert list(pool.map(answered, range(8))) == alone
                if shared():
                    break
            else:
                assert not filled, "filled passes are shared by any kernels"
                pytest.skip("kernels of this processor round by the number of crops")
