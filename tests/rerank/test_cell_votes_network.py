from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from objemb.rerank._cell_votes import CellVotes
from objemb.weights.read import UnreadableWeightsError


def made(**settings: int) -> CellVotes:
    torch.manual_seed(0)
    return CellVotes(**{"width": 8, "size": 33, **settings})


def test_about_a_hundred_thousand_parameters() -> None:
    assert sum(p.numel() for p in CellVotes().parameters()) == 104_562


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (4, 1), (5, 3)])
def test_the_order_of_cells_does_not_matter(n: int, m: int) -> None:
    votes, cosines = made(), torch.rand(3, n, m, generator=torch.Generator().manual_seed(1))
    logits = votes(cosines)
    assert logits.shape == (3,)
    turned = cosines.flip(1)[:, :, torch.randperm(m)]
    torch.testing.assert_close(votes(turned), logits)
    torch.testing.assert_close(votes(cosines[1:2]), logits[1:2])


def test_it_learns_to_tell_matches_from_the_rest() -> None:
    """Boxes of the same object have pairs of similar cells; all of its layers get a gradient."""
    votes = made(width=16)
    generator = torch.Generator().manual_seed(0)
    others = 0.6 * torch.rand(64, 5, 5, generator=generator)
    same = others[:32] + 0.4 * torch.eye(5)[torch.randperm(5, generator=generator)]
    pairs, labels = torch.cat([same, others[32:]]), torch.arange(64) < 32
    optimizer = torch.optim.Adam(votes.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(votes(pairs), labels.float()).backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in votes.parameters())
        optimizer.step()
    assert float(((votes(pairs) > 0) == labels).float().mean()) > 0.9


def test_saved_and_loaded(tmp_path: Path) -> None:
    votes, cosines = made(size=65), torch.rand(2, 3, 3)
    votes.save(tmp_path / "votes.safetensors")
    loaded = CellVotes.load(tmp_path / "votes.safetensors")
    assert (loaded.width, loaded.size) == (8, 65)
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(loaded(cosines), votes(cosines), rtol=0, atol=0)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a file of the task match_cells, found none"):
        CellVotes.load(tmp_path / "none")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other")
    (tmp_path / "damaged").write_bytes(b"no tensors")
    made().save(tmp_path / "votes")
    state = (tmp_path / "votes").read_bytes()
    (tmp_path / "short").write_bytes(state[:-8])
    (tmp_path / "settings").write_bytes(state.replace(b'\\"width\\": 8', b'\\"width\\": 9'))
    (tmp_path / "key").write_bytes(state.replace(b'\\"width\\"', b'\\"wadth\\"'))
    for name in ("other", "damaged", "short", "settings", "key"):
        with pytest.raises(UnreadableWeightsError, match=f"{name}: expected weights of the task match_cells"):
            CellVotes.load(tmp_path / name)
