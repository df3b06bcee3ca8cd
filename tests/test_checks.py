from __future__ import annotations

import math

import pytest
import torch

from objemb import checks


def test_shape_returns_what_fits() -> None:
    value = torch.zeros(3, 4)
    assert checks.shape("boxes", value, (None, 4)) is value
    assert checks.shape("boxes", value[:0], (0, 4)).shape == (0, 4)


@pytest.mark.parametrize("found", [torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, 4, 1)])
def test_shape_names_expected_and_found(found: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"boxes: expected shape \(any, 4\), found \(3") as caught:
        checks.shape("boxes", found, (None, 4))
    assert str(tuple(found.shape)) in str(caught.value)


def test_shape_wants_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"boxes: expected an array or a tensor, found list"):
        checks.shape("boxes", [[0, 0, 1, 1]], (None, 4))


def test_finite_counts_the_bad_values() -> None:
    value = torch.tensor([0.0, math.nan, math.inf])
    with pytest.raises(ValueError, match="scores: expected finite values, found 2 NaN or infinite of 3"):
        checks.finite("scores", value)
    for fine in (torch.zeros(0), torch.tensor([1, 2]), torch.tensor([True])):
        assert checks.finite("scores", fine) is fine


def test_positive() -> None:
    assert checks.positive("dim", 3) == 3
    assert checks.positive("p", 0.5) == 0.5
    for bad in (10**400, 0, -1, math.nan, math.inf, True, "3", None):
        with pytest.raises(ValueError, match="dim: expected a number above 0, found"):
            checks.positive("dim", bad)


def test_whole() -> None:
    assert checks.whole("batch", 3) == 3
    assert checks.whole("max_regions", 0, 0) == 0
    for bad in (0, -1, 2.5, 2.0, True, "3", None):
        with pytest.raises(ValueError, match="batch: expected an integer of 1 or more, found"):
            checks.whole("batch", bad)


def test_flag() -> None:
    assert checks.flag("masks", True) is True
    for bad in (1, "no", None, [False]):
        with pytest.raises(ValueError, match="masks: expected true or false, found"):
            checks.flag("masks", bad)


def test_several() -> None:
    assert checks.several("scales", [1.0, 0.5]) == (1.0, 0.5)
    for bad in ([], 1.0, "1.0", None):
        with pytest.raises(ValueError, match="scales: expected a list of at least one item, found"):
            checks.several("scales", bad)


def test_between_includes_its_ends() -> None:
    assert checks.between("score", 0, 0, 1) == 0
    assert checks.between("score", 1.0, 0, 1) == 1.0
    for bad in (-0.1, 1.1, math.nan, True, "0.5", None):
        with pytest.raises(ValueError, match="score: expected a number from 0 to 1, found"):
            checks.between("score", bad, 0, 1)


def test_one_of_lists_the_choices_and_suggests_the_nearest() -> None:
    assert checks.one_of("mode", "map", ("crop", "map")) == "map"
    with pytest.raises(ValueError, match=r"mode: expected one of 'crop', 'map', found 'crp' \(did you mean 'crop'\?\)"):
        checks.one_of("mode", "crp", ("crop", "map"))
    with pytest.raises(ValueError, match=r"found \['map'\]"):
        checks.one_of("mode", ["map"], ("crop", "map"))


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert checks.nearest("xyz", ("crop", "map")) == ""
    assert checks.nearest("crop", ()) == ""
    assert checks.nearest(3, (30,)) == " (did you mean '30'?)"


def test_errors_about_the_state_of_the_world_have_one_base() -> None:
    assert issubclass(checks.ArtefactMismatchError, checks.ObjembError)
    assert issubclass(checks.MissingWeightsError, checks.ObjembError)
