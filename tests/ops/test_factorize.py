from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.ops.factorize import factorize
from objemb.ops.nmf import Nmf


def two_things(left: float = 1.0, right: float = 1.0) -> Tensor:
    """A map of 4 channels, 3 rows and 4 columns: channels 0 and 1 on the left, 2 and 3 on the right."""
    features = torch.zeros(4, 3, 4)
    features[0, :, :2], features[1, :, :2] = left, 3 * left
    features[2:, :, 2:] = right
    return features


@pytest.mark.parametrize("init", ["random", "nndsvd", "nndsvda"])
def test_concepts_of_a_map(init: str) -> None:
    (found,) = factorize([[two_things(right=0.5)]], Nmf(2, init, tolerance=0))
    assert torch.allclose(found.basis, torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 0.5, 0.5]]), atol=1e-3)
    (heat,) = found.heat
    expected = torch.zeros(2, 3, 4)
    expected[0, :, :2], expected[1, :, 2:] = 4.0, 1.0
    assert torch.allclose(heat, expected, atol=2e-3), "heat is the activation, summed over the channels"
    assert found.mass.tolist() == pytest.approx([24, 6], rel=1e-3), "the strongest first"


def test_maps_of_a_set_share_their_concepts() -> None:
    left_only = two_things(right=0.0)[:, :2, :3]
    (found,) = factorize([[left_only, two_things(right=9.0)]], Nmf(2, tolerance=0))
    assert [h.shape for h in found.heat] == [(2, 2, 3), (2, 3, 4)]
    assert found.strongest(1) == 0
    chosen = found.strongest(0)
    assert chosen == 1
    hot = found.heat[1][chosen] > 1
    assert hot[:, :2].all()
    assert not hot[:, 2:].any()


def test_sets_do_not_see_each_other() -> None:
    maps = [torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    together = factorize([[maps[0]], [maps[1], maps[2][:, :1]]], Nmf(2))
    for found, alone in zip(together, ([maps[0]], [maps[1], maps[2][:, :1]]), strict=True):
        (expected,) = factorize([alone], Nmf(2))
        assert torch.allclose(found.basis, expected.basis, atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found.heat, expected.heat, strict=True))
    assert factorize([], Nmf()) == []


def test_nothing_seen() -> None:
    (found,) = factorize([[torch.zeros(4, 2, 3)]], Nmf())
    assert found.basis.shape == (0, 4)
    assert found.heat[0].shape == (0, 2, 3)
    assert found.strongest(0) is None
    (found,) = factorize([[torch.zeros(4, 2, 3), two_things()]], Nmf(2))
    assert len(found.basis) == 2
    assert found.strongest(0) is None
    assert found.strongest(1) is not None


def test_negative_activations_count_as_none() -> None:
    features = two_things()
    (plain,) = factorize([[features]], Nmf(2))
    (found,) = factorize([[torch.where(features == 0, -5.0, features)]], Nmf(2))
    assert torch.equal(plain.basis, found.basis)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="maps: expected a list of at least one item"):
        factorize([[]], Nmf())
