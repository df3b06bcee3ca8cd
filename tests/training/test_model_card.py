from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from objemb.structures import Regions
from objemb.training.data.base import Example
from objemb.training.model_card import card_markdown, make_card, write_card
from tests.training.learners import Noisy, task


class Plain(Noisy):
    """Neither classes nor identities."""

    classes = ()
    instances = ()

    def __getitem__(self, number: int) -> Example:
        example = super().__getitem__(number)
        return Example(example.photo, Regions(example.regions.boxes, example.photo.size))


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    distill = task(train="joint")
    before = {n: v.clone() for n, v in distill.describer.detector.state_dict().items()}
    with torch.no_grad():
        distill.describer.detector.network.roi_heads.box_predictor.cls_score.bias.add_(1.0)
    after = {n: v.clone() for n, v in distill.describer.detector.state_dict().items()}
    made = make_card(distill.describer, distill.teacher, Noisy(), before=before, about={"seed": 3})
    now = distill.describer.detector.state_dict()
    assert all(torch.equal(now[n], v) for n, v in after.items()), "the detector is what it was"
    return made


def test_what_a_card_says(card: dict[str, Any]) -> None:
    assert card["format"] == "objemb-distillation-card"
    assert card["cosine"]["by_size"]["all"]["boxes"] == 3
    assert sum(card["cosine"]["histogram"]) == 3
    assert set(card["retrieval"]) == {
        "teacher",
        "student",
        "student asks, teacher indexed",
        "teacher asks, student indexed",
    }
    teacher = card["retrieval"]["teacher"]["mAP"]
    assert card["retrieval"]["teacher"]["share"] == 1
    assert card["retrieval"]["student"]["share"] == pytest.approx(card["retrieval"]["student"]["mAP"] / teacher)
    for part in ("by_query_size", "by_object_size"):
        assert card["retrieval_by_size"][part].keys() == {"38-75 %"}, "32 of 60 pixels"
        of_size = card["retrieval_by_size"][part]["38-75 %"]
        assert {name: of_size["student"][name] for name in ("mAP", "P@1", "queries")} == {
            name: card["retrieval"]["student"][name] for name in ("mAP", "P@1", "queries")
        }
        assert of_size["share"] == card["retrieval"]["student"]["share"]
    assert card["cosine"]["by_size"]["38-75 %"] == card["cosine"]["by_size"]["all"]
    assert card["cosine"]["by_size"]["whole photo"]["boxes"] == 4
    assert set(card["detector"]["before"]) == {"AP", "AP50", "AP75", "AP_under_9", "AP_38_75"}
    assert card["detector"]["same"] is False
    times = card["milliseconds"]
    assert times["ratio"] == pytest.approx(times["detector and teacher"] / times["student, one pass"])
    assert card["parameters"]["head"] < card["parameters"]["detector"]
    assert card["seed"] == 3
    assert json.loads(json.dumps(card, allow_nan=False)) == card


def test_the_files_of_a_card(card: dict[str, Any], tmp_path: Path) -> None:
    write_card(card, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == card
    assert (tmp_path / "report.md").read_text() == card_markdown(card)
    assert Image.open(tmp_path / "report.png").size[0] > 1000
    text = card_markdown(card)
    assert "| all | 0." in text or "| all | -0." in text
    assert "student asks, teacher indexed" in text
    assert "| retrieval by size of the query | teacher mAP | teacher P@1 | student mAP | student P@1 | share" in text
    assert "| average precision | AP | AP50 | AP75 | AP <9 % | AP 38-75 % |" in text
    assert "- validation: " in text
    assert len(text.splitlines()) < 60


def test_a_card_for_people_is_short_and_names_no_folders(card: dict[str, Any]) -> None:
    run = {"steps": 300, "batch": 8, "lr": 0.001, "seed": 3, "workers": 2}
    full = {
        **card,
        "examples": 1200,
        "run": run,
        "command": "objemb train distill_scenes -o /home/someone/runs/student",
    }
    text = card_markdown(full)
    assert "- run: steps 300, batch 8, lr 0.001, seed 3" in text
    assert "- command: `objemb train distill_scenes -o student`" in text
    assert "/home/someone" not in text
    assert "```json" not in text


def test_what_the_data_does_not_tell(tmp_path: Path) -> None:
    distill = task()
    card = make_card(distill.describer, distill.teacher, Plain())
    assert (card["retrieval"], card["retrieval_by_size"], card["detector"]) == (None, None, None)
    write_card(card, tmp_path)
    assert "No average precision: not available from the validation data." in (tmp_path / "report.md").read_text()


def test_a_detector_that_was_not_trained_is_measured_once() -> None:
    distill = task()
    found = make_card(distill.describer, distill.teacher, Noisy())["detector"]
    assert found["same"] is True
    assert found["before"] == found["after"]
