from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from objemb.checks import NotFittedError
from objemb.layers.codebook import Codebook, InverseFrequency


def features(count: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    return middles[torch.arange(count) % 3] + torch.rand(count, 2, generator=generator)


def test_codes_are_learned_assigned_and_saved() -> None:
    pytest.importorskip("faiss")
    book, copy = Codebook(2, 3, samples=20), Codebook(2, 3)
    assert (book.needed, copy.needed) == (60, 192)
    rounds: list[tuple[int, int]] = []
    book.fit(features(), fitted_on="points", on_step=lambda done, of: rounds.append((done, of)))
    assert book.settings() == {"fitted_on": "points", "count": 90}
    assert rounds[0] == (1, 25)
    copy.load_state_dict(book.state_dict())
    words = copy.assign(features().numpy(), 2)
    assert words.shape == (90, 2)
    assert len({tuple(w[::3]) for w in words[:, 0].reshape(-1, 3).T.tolist()}) == 3
    again = Codebook(2, 3)
    again.fit(features(), fitted_on="points")
    np.testing.assert_array_equal(again.array, book.array)


def test_a_fresh_codebook() -> None:
    with pytest.raises(NotFittedError, match="Codebook: expected a fitted part"):
        Codebook(2, 3).assign(np.zeros((1, 2), np.float32), 1)


def test_too_few_features() -> None:
    with pytest.raises(
        ValueError, match=r"codebook: expected at least 100 local features .* found 90; pass more photos"
    ):
        Codebook(2, 100).fit(features(), fitted_on="points")
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 3\), found \(90, 2\)"):
        Codebook(3, 10).fit(features(), fitted_on="points")


def test_what_cannot_be_learned_is_known_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    book = Codebook(2, 100)
    book.expect(None)
    book.expect(100)
    with pytest.raises(ValueError, match=r"codebook: expected at least 100 local features .* found at most 99; pass"):
        book.expect(99)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="k-means needs FAISS"):
        book.expect(None)


def test_few_features_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("faiss")
    Codebook(2, 2).fit(features(78), fitted_on="points")
    assert not caplog.messages
    Codebook(2, 2).fit(features(77), fitted_on="points")
    assert caplog.messages == [
        "codebook: 77 local features for 2 words are few; with fewer than 39 per word, the words are noisy"
    ]


@pytest.mark.parametrize("wrong", [{"words": 1}, {"dim": 0}, {"iterations": 0}, {"samples": 0}, {"seed": -1}])
def test_wrong_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Codebook(**{"dim": 2, "words": 3, **wrong})


def test_idf_by_hand() -> None:
    """Three images: word 0 is in all, word 1 in one, word 2 in two, word 3 in none."""
    idf = InverseFrequency(4)
    rows = [InverseFrequency.rows(np.array(words, np.int64)) for words in ([0, 1, 2], [0], [0, 2])]
    assert rows[1].tolist() == [[-1], [0]]
    idf.fit(
        torch.cat([*rows, InverseFrequency.rows(np.zeros(0, np.int64))]), fitted_on="four images, one without words"
    )
    wanted = [math.log(4 / n) for n in (3, 1, 2, 1)]
    np.testing.assert_allclose(idf.idf.tolist(), wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="idf: expected the words of at least one image"):
        InverseFrequency(4).fit(torch.tensor([[2.0]]), fitted_on="nothing")
