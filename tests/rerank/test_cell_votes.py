from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.checks import ArtefactMismatchError
from objemb.models.build import build_model, load_model, save_model
from objemb.rerank._cell_votes import CellVotes
from objemb.rerank.cell_votes import VotesOfCells
from tests.rerank.test_joint_factorization import search
from tests.small_settings import CROPS

NEEDS_PHOTOS = True


def minimal(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    CellVotes(width=4, size=32).save(folder / "votes.safetensors")
    return {"weights": str(folder / "votes.safetensors"), "top": 2}


def test_scores_are_probabilities_mixed_with_the_old_ones(tmp_path: Path) -> None:
    before = search()
    settings = minimal(tmp_path)
    votes = CellVotes.load(settings["weights"])
    seen: list[torch.Tensor] = []
    half = VotesOfCells(**settings, weight=0.25)
    counted = half.similarity

    def similarity(cosines: torch.Tensor) -> torch.Tensor:
        seen.append(cosines)
        return counted(cosines)

    half.similarity = similarity  # type: ignore[method-assign]  # to see its input
    after = half.rerank(before)
    assert seen
    old = {hit.image: hit.score for hit in before.results[0].hits}
    first = dict(zip([hit.image for hit in before.results[0].hits[:2]], votes(seen[0]).sigmoid().tolist(), strict=True))
    for hit in after.results[0].hits[:2]:
        assert hit.score == pytest.approx(0.25 * first[hit.image] + 0.75 * old[hit.image], abs=1e-5)


def test_the_size_is_that_of_the_training(tmp_path: Path) -> None:
    assert VotesOfCells(**minimal(tmp_path)).crop.size == 32


def test_a_model_folder_cannot_name_its_file(tmp_path: Path) -> None:
    describer = {**CROPS, "backbone": {**CROPS["backbone"], "weights": "random"}}
    model = build_model({"describer": describer, "aggregator": {"name": "keep"}})
    ranked = model.reranked([{"name": "cell_votes", **minimal(tmp_path)}])
    with pytest.raises(
        ValueError, match=r"expected re-rankers without files, found rerank\[0\]\.weights; leave it out"
    ):
        save_model(ranked, tmp_path / "model")
    save_model(model, tmp_path / "model")
    card = (tmp_path / "model" / "model.json").read_text()
    named = '"rerank": [{"name": "cell_votes", "weights": "some/file", "top": 50, "weight": 0.5}]'
    (tmp_path / "model" / "model.json").write_text(card.replace('"rerank": []', named))
    with pytest.raises(ArtefactMismatchError, match=r"rerank\[0\]\.weights: expected a self-contained model folder"):
        load_model(tmp_path / "model")
