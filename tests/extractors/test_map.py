from __future__ import annotations

import pytest

from objemb.extractors.map import Map
from objemb.pooling.mean import Mean
from objemb.structures import Regions
from tests.tiny import TinyBackbone, random_photo

MINIMAL = {"size": 64}


def test_one_pass_per_shape() -> None:
    photos = [random_photo(40, 60), random_photo(60, 40), random_photo(80, 120), random_photo(20, 30)]
    net = TinyBackbone()
    Map(size=60).extract(photos, net)
    assert sorted(tuple(x.shape) for x in net.seen) == [(1, 3, 60, 40), (3, 3, 40, 60)]


def test_sizes_scales_and_multiples() -> None:
    photo = random_photo(40, 60)
    for arguments, scale, multiple, shape in (
        ({"size": 30}, 1.0, 1, (20, 30)),
        ({"size": 30}, 2.0, 1, (40, 60)),
        ({"size": 30, "side": "shortest"}, 1.0, 1, (30, 45)),
        ({"size": 30}, 1.0, 14, (14, 28)),
    ):
        net = TinyBackbone(multiple=multiple)
        Map(**arguments).extract([photo], net, scale)
        assert net.seen[0].shape[2:] == shape


def test_grids_are_in_original_pixels() -> None:
    photo = random_photo(50, 80, size=(500, 800))  # the decoder scaled down
    grid = Map(size=40).extract([photo], TinyBackbone()).grids[0]
    assert (grid.height, grid.width) == (6, 10)
    assert grid.cell == (4 * 500 / 25, 4 * 800 / 40)


def test_a_strip_of_a_photo_gets_a_map() -> None:
    photo = random_photo(1, 2000)
    net = TinyBackbone(stride=32)
    seen = Map(size=800).extract([photo], net)
    assert net.seen[0].shape[2:] == (32, 800)
    assert seen.pool([Regions.whole(photo.size)], Mean())[0].shape == (1, 5)


def test_decode_side() -> None:
    assert Map(size=1024).decode_side() == 1024
    assert Map(size=1024, side="shortest").decode_side() is None


@pytest.mark.parametrize(
    ("side", "scale", "size", "expected"),
    [
        ("longest", 1.0, (40, 60), (40, 60)),  # smaller than 100: as it is
        ("longest", 0.5, (40, 60), (20, 30)),
        ("longest", 2.0, (40, 60), (80, 120)),  # a scale is a scale of what the photo has
        ("longest", 1.0, (120, 200), (60, 100)),
        ("shortest", 1.0, (90, 300), (90, 300)),
        ("shortest", 1.0, (200, 300), (100, 150)),
    ],
)
def test_small_photos_may_stay_small(side: str, scale: float, size: tuple[int, int], expected: tuple[int, int]) -> None:
    net = TinyBackbone()
    extractor = Map(size=100, side=side, enlarge=False)
    extractor.extract([random_photo(*size)], net, scale)
    assert net.seen[0].shape[2:] == expected
    part = (size[0] // 2, size[1] // 2)
    extractor.for_part(part, size).extract([random_photo(*part)], net, scale)
    assert net.seen[1].shape[2:] == tuple(s // 2 for s in expected), "a part of it, too"


@pytest.mark.parametrize(
    ("side", "part", "expected"),
    [("longest", (50, 20), 100 * 50 / 400), ("shortest", (50, 20), 100 * 20 / 300), ("longest", (300, 400), 100)],
)
def test_a_part_has_its_share_of_the_size(side: str, part: tuple[int, int], expected: float) -> None:
    whole = Map(size=100, side=side)
    made = whole.for_part(part, (300, 400))
    assert (whole.size, made.size) == (100, pytest.approx(expected))
    net = TinyBackbone()
    whole.extract([random_photo(300, 400)], net)
    made.extract([random_photo(*part)], net)
    factors = [net.seen[i].shape[2] / size for i, size in enumerate((300, part[0]))]
    assert factors[1] == pytest.approx(factors[0], rel=0.05), "rounded to pixels"


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="sampling: expected one of 'cells', 'aligned', found 'cell'"):
        Map(sampling="cell")
    with pytest.raises(ValueError, match="size: expected a number above 0, found 0"):
        Map(size=0)
    with pytest.raises(ValueError, match="side: expected one of"):
        Map(side="both")
    with pytest.raises(ValueError, match="scale: expected a number above 0"):
        Map().extract([random_photo(4, 4)], TinyBackbone(), 0)
