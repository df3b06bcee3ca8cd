from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from objemb.aggregators.keep import Keep
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.layers.whitening import Whitening
from objemb.models import Model, build_model
from objemb.ops.tensors import l2
from objemb.pooling.mean import Mean
from objemb.regions.whole_image import WholeImage
from objemb.structures import Regions
from objemb.training.teacher import Teacher
from tests.tiny import TinyBackbone, random_photo

PHOTO, OTHER = random_photo(40, 60, id="a"), random_photo(50, 30, seed=1, id="b")
BOXES = Regions(torch.tensor([[3.0, 4, 50, 30], [7, 7, 7, 7], [0, 0, 60, 40]]), PHOTO.size)
SETTINGS: dict[str, Any] = {
    "name": "pooled_regions",
    "regions": {"name": "whole_image"},
    "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
    "extractor": {"name": "crop", "size": 32},
    "pooling": {"name": "mean"},
}


def tiny(extractor: Any = None, *, whitened: bool = False) -> Model:
    describer = PooledRegions(
        regions=WholeImage(), backbone=TinyBackbone(), extractor=extractor or Crop(size=16), pooling=Mean()
    )
    if whitened:
        vectors = l2(torch.rand(40, 5, generator=torch.Generator().manual_seed(0)))
        describer.whitening = Whitening.fit(vectors, 3, fitted_on="noise")
    return Model(describer, Keep(), {"describer": {"name": "pooled_regions"}})


@pytest.mark.parametrize("extractor", [Crop(size=16), Map(size=32)])
@pytest.mark.parametrize("whitened", [False, True])
def test_the_vectors_are_those_of_the_model(extractor: Any, whitened: bool) -> None:
    model = tiny(extractor, whitened=whitened)
    teacher = Teacher(model)
    expected = model.describer.describe([PHOTO, OTHER], [BOXES, Regions.whole(OTHER.size)])
    for _ in range(2):  # computed, then from the cache
        found = teacher.vectors([PHOTO, OTHER], [BOXES, Regions.whole(OTHER.size)])
        for vectors, described in zip(found, expected, strict=True):
            assert torch.allclose(vectors, torch.as_tensor(described.vectors), atol=1e-6)
    assert (teacher.dim, teacher.fingerprint) == (model.dim, model.fingerprint)


def test_vectors_before_unit_length_are_projected_by_the_whitening() -> None:
    model = tiny(whitened=True)
    raw = Teacher(model).vectors([PHOTO], [BOXES], unit=False)[0]
    plain = torch.as_tensor(tiny().describer.describe([PHOTO], [BOXES])[0].vectors)
    whitening = model.describer.whitening
    assert torch.allclose(raw, (plain - whitening.mean) @ whitening.projection.T, atol=1e-6)
    assert torch.equal(l2(raw), Teacher(model).vectors([PHOTO], [BOXES])[0])
    assert model.describer.whitening is not None, "the model that was given stays as it is"


def test_without_a_whitening_unit_vectors_are_all_there_is() -> None:
    (raw,) = Teacher(tiny()).vectors([PHOTO], [BOXES], unit=False)
    assert torch.allclose(raw.norm(dim=1), torch.ones(3))


def test_each_box_set_of_a_photo_is_computed_once() -> None:
    teacher = Teacher(tiny())
    seen = teacher._describer.backbone.seen
    teacher.vectors([PHOTO], [BOXES])
    count = len(seen)
    assert count > 0
    teacher.vectors([PHOTO, PHOTO], [BOXES, Regions.empty(PHOTO.size)])
    assert len(seen) == count
    teacher.vectors([PHOTO], [BOXES[:2]])
    assert len(seen) > count


def test_no_boxes() -> None:
    assert Teacher(tiny()).vectors([], []) == []
    assert Teacher(tiny()).vectors([PHOTO], [Regions.empty(PHOTO.size)])[0].shape == (0, 5)


def test_it_is_frozen_and_no_part_of_a_module_that_holds_it() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = Teacher.open(SETTINGS)

    holder = Holder()
    assert not list(holder.parameters())
    assert not holder.state_dict()
    assert not any(p.requires_grad for p in holder.teacher._describer.parameters())
    holder.train()
    assert not any(m.training for m in holder.teacher._describer.modules())
    (vectors,) = holder.teacher.vectors([PHOTO], [BOXES])
    with torch.autocast("cpu", torch.bfloat16):
        (again,) = Teacher.open(SETTINGS).vectors([PHOTO], [BOXES])
    assert torch.equal(vectors, again), "mixed precision is the student's affair"


def test_a_folder_is_the_model_that_was_saved_in_it(tmp_path: Path) -> None:
    model = build_model({"describer": SETTINGS})
    model.save(tmp_path / "teacher")
    teacher = Teacher.open(tmp_path / "teacher", cache=tmp_path / "cache")
    assert teacher.fingerprint == model.fingerprint
    assert teacher.parameters == sum(p.numel() for p in model.describer.parameters())
    teacher.vectors([PHOTO], [BOXES])
    assert any((tmp_path / "cache").rglob("*.safetensors"))


def test_what_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder made by"):
        Teacher.open(tmp_path)
    with pytest.raises(TypeError, match="expected a model folder or the settings of a describer, found 3"):
        Teacher.open(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooled_region"):
        Teacher.open({"name": "pooled_region"})
    with pytest.raises(ValueError, match=r"expected vectors of the student.s length 128, found 5; .* head.dim=5"):
        Teacher(tiny()).expect_dim(128)
