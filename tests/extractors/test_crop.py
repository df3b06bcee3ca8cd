from __future__ import annotations

import pytest
import torch

from objemb.extractors.crop import MEAN_COLOUR, Crop
from objemb.ops.images import as_batch, resize
from objemb.pooling.mean import Mean
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone, plain_photo, random_photo

MINIMAL = {"size": 32, "batch": 3}


def inputs(crop: Crop, photo: Photo, regions: Regions, **arguments: int) -> list[torch.Tensor]:
    net = TinyBackbone(**arguments)
    crop.extract([photo], net).pool([regions], Mean())
    return [image for batch in net.seen for image in batch]


def test_squash_against_cutting_by_hand() -> None:
    photo = random_photo(50, 70)
    regions = Regions(torch.tensor([[10.0, 5.0, 40.0, 45.0], [0.0, 0.0, 70.0, 50.0]]), photo.size)
    first, second = inputs(Crop(size=32), photo, regions)
    assert torch.equal(first, as_batch([resize(torch.as_tensor(photo.pixels)[:, 5:45, 10:40], (32, 32))], "cpu")[0])
    assert torch.equal(second, as_batch([resize(torch.as_tensor(photo.pixels), (32, 32))], "cpu")[0])


def test_boxes_follow_the_scale_of_the_decoder() -> None:
    photo = random_photo(50, 70, size=(100, 280))
    (image,) = inputs(Crop(size=32), photo, Regions(torch.tensor([[40.0, 10.0, 160.0, 90.0]]), photo.size))
    assert torch.equal(image, as_batch([resize(torch.as_tensor(photo.pixels)[:, 5:45, 10:40], (32, 32))], "cpu")[0])


def test_margin_is_a_share_of_the_box() -> None:
    photo = random_photo(50, 70)
    (image,) = inputs(Crop(size=32, margin=0.1), photo, Regions(torch.tensor([[10.0, 2.0, 40.0, 42.0]]), photo.size))
    assert torch.equal(image, as_batch([resize(torch.as_tensor(photo.pixels)[:, 0:46, 7:43], (32, 32))], "cpu")[0])


def test_keep_shortens_by_whole_strides() -> None:
    photo = random_photo(100, 200)
    regions = Regions(
        torch.tensor([[0.0, 0, 200, 100], [0, 0, 60, 100], [0, 0, 200, 1], [3, 3, 3, 3], [0, 0, 98, 100]]), photo.size
    )
    shapes = [tuple(i.shape[1:]) for i in inputs(Crop(size=33, fit="keep"), photo, regions, stride=8)]
    assert shapes == [(17, 33), (33, 17), (8, 33), (33, 33), (33, 33)]


def test_pad_centres_on_the_background() -> None:
    photo = plain_photo(20, 40, (255, 0, 0))
    (image,) = inputs(Crop(size=16, fit="pad"), photo, Regions.whole(photo.size))
    colour = torch.tensor(MEAN_COLOUR) / 255
    assert torch.allclose(image[:, :4], colour[:, None, None].expand(3, 4, 16))
    assert torch.allclose(image[:, 12:], colour[:, None, None].expand(3, 4, 16))
    assert torch.equal(image[:, 4:12], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 16))


def test_masks_fill_the_background() -> None:
    photo = plain_photo(40, 40, (255, 255, 255))
    mask = torch.zeros(1, 2, 2, dtype=torch.uint8)
    mask[0, 0] = 1  # the upper half of the box
    regions = Regions(torch.tensor([[10.0, 10.0, 30.0, 30.0]]), photo.size, extras={"masks": mask})
    (image,) = inputs(Crop(size=32, margin=0.3, masks=True, background=(0, 0, 0)), photo, regions)
    # the window is 32 pixels: 6 of margin, 20 of box, 6 of margin
    expected = torch.zeros(3, 32, 32)
    expected[:, 6:16, 6:26] = 1
    assert torch.equal(image, expected)
    (unmasked,) = inputs(Crop(size=32, margin=0.3, background=(0, 0, 0)), photo, regions)
    assert unmasked.min() == 1


def test_full_and_empty_masks_change_nothing() -> None:
    photo = random_photo(50, 70)
    rows = torch.tensor([[10.3, 5.4, 40.2, 44.9], [0.0, 0.0, 70.0, 50.0], [9.0, 9.0, 9.0, 9.0]])
    plain = inputs(Crop(size=32), photo, Regions(rows, photo.size))
    for value in (0, 1):
        masks = torch.full((3, 28, 28), value, dtype=torch.uint8)
        masked = inputs(Crop(size=32, masks=True), photo, Regions(rows, photo.size, extras={"masks": masks}))
        assert all(torch.allclose(a, b, atol=0.5 / 255) for a, b in zip(plain, masked, strict=True))


def test_batches_span_photos_and_are_bounded() -> None:
    photos = [random_photo(40, 40, seed=i) for i in range(5)]
    regions = [Regions(torch.rand(n, 4).sort(dim=1).values * 40, (40, 40)) for n in (3, 0, 1, 4, 3)]
    regions = [Regions(r.boxes[:, [0, 1, 2, 3]], r.size) for r in regions]
    net = TinyBackbone()
    together = Crop(size=16, batch=4).extract(photos, net).pool(regions, Mean())
    assert [len(x) for x in net.seen] == [4, 4, 3]
    for photo, of_photo, vectors in zip(photos, regions, together, strict=True):
        alone = Crop(size=16, batch=1).extract([photo], TinyBackbone()).pool([of_photo], Mean())[0]
        assert torch.allclose(vectors, alone, atol=1e-6)


def test_scale_and_multiple() -> None:
    photo = random_photo(40, 40)
    for size, scale, multiple, side in ((32, 0.5, 1, 16), (32, 1.0, 14, 28), (32, 0.01, 1, 4)):
        net = TinyBackbone(multiple=multiple)
        Crop(size=size).extract([photo], net, scale).pool([Regions.whole(photo.size)], Mean())
        assert net.seen[0].shape == (1, 3, side, side)


def test_full_resolution_is_needed() -> None:
    assert Crop().decode_side() is None


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="fit: expected one of 'squash', 'pad', 'keep', found 'sqash'"):
        Crop(fit="sqash")
    with pytest.raises(ValueError, match="batch: expected an integer of 1 or more"):
        Crop(batch=0)
    with pytest.raises(ValueError, match="background: expected three numbers"):
        Crop(background=(1, 2))
    with pytest.raises(ValueError, match="margin: expected a number from 0 to 10, found -1"):
        Crop(margin=-1)
