from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from objemb.cli.programs.evaluations.failures_page import failures_page
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry, read_evaluation_set
from objemb.evaluation.failures import JUNK, OWN_PHOTO, RIGHT, WRONG, Failure, FoundImage
from objemb.evaluation.ranks import UNRANKED
from tests.evaluation.colours import LEFT, write_set

HOSTILE = '<script>alert("x")</script>&.png'
ENVIRONMENT = {"command": f"evaluate {HOSTILE}", "date": "2020-01-01", "seed": 0, "versions": {"torch": "1<2"}}
RESULT = {"method": f"mac {HOSTILE}", "set": f"shop {HOSTILE}", "queries": 2, "skipped": 1}


@pytest.fixture
def data(tmp_path: Path) -> EvaluationSet:
    return read_evaluation_set(write_set(tmp_path))


def failure() -> Failure:
    hits = (
        FoundImage("a.png", 0, 0.9, (0.0, 0.0, 40.0, 20.0), OWN_PHOTO),
        FoundImage("b.png", 1, 0.8, (1.0, 2.0, 3.0, 4.0), WRONG),
        FoundImage(HOSTILE, 2, 0.7, (0.0, 0.0, 5.0, 5.0), JUNK),
        FoundImage("c.png", 3, 0.6, (0.0, 0.0, 20.0, 20.0), RIGHT, truths=((0.0, 0.0, 10.0, 10.0),)),
    )
    return Failure(7, SetEntry("a.png", (f"cup {HOSTILE}",), LEFT), 0.1234, 2, 5, hits, None)


def page(data: EvaluationSet, *failures: Failure) -> str:
    return failures_page(RESULT, ENVIRONMENT, data, failures, f"mAP {HOSTILE}")


def test_everything_is_on_the_page(data: EvaluationSet) -> None:
    text = page(data, failure())
    assert "2 queries, 1 do not count; the 1 with the lowest average precision" in text
    assert "AP 12.3, first of 5 right images at rank 3" in text
    assert text.count("data:image/jpeg;base64,") == 5
    for words in ("✓ right", "✗ wrong", "– junk", "– own photo", "1. <span>0.900</span>", "query 7"):
        assert words in text
    assert text.count("<rect") == 2 + 3 * 2 + 1  # under and over of each matched box but a whole photo; a thin true one
    assert 'x="1.0" y="2.0" width="2.0" height="2.0"' in text
    assert "The photo is missing" in text  # of the hostile name, which is no file


def test_nothing_of_a_name_is_read_as_html_and_nothing_is_fetched(data: EvaluationSet) -> None:
    text = page(data, failure())
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|<link|@import|url\(", text)


def test_a_first_right_one_that_is_not_among_the_best(data: EvaluationSet) -> None:
    far = FoundImage("c.png", 41, 0.1, (0.0, 0.0, 20.0, 20.0), RIGHT)
    text = page(data, replace(failure(), hits=(), first_right=far))
    assert '<div class="card missed">' in text
    assert "42. <span>0.100</span>" in text
    lost = FoundImage("c.png", UNRANKED, float("-inf"), None, RIGHT)
    text = page(data, replace(failure(), hits=(), first_rank=None, positives=1, first_right=lost))
    assert "none of 1 right image found" in text
    assert "no vector" in text
    assert "inf" not in re.sub(r"base64,[^\"]*", "", text)


def test_no_failures(data: EvaluationSet) -> None:
    text = page(data)
    assert "No query to show: the average precision of all 2 is 100, 1 do not count." in text
    assert "<img" not in text


def test_a_query_without_instances_is_called_by_its_file(data: EvaluationSet) -> None:
    assert "1. q.png: AP" in page(data, replace(failure(), query=SetEntry("q.png", (), None)))


def test_a_row_has_a_column_for_each_picture(data: EvaluationSet) -> None:
    far = FoundImage("c.png", 41, 0.1, (0.0, 0.0, 20.0, 20.0), RIGHT)
    assert "--tiles: 5" in page(data, failure())
    assert "--tiles: 6" in page(data, failure(), replace(failure(), first_right=far))
    assert "--tiles: 2" in page(data)


def test_no_folder_of_the_machine_is_on_the_page(data: EvaluationSet) -> None:
    command = "objemb evaluate /home/someone/model --set /home/someone/shop.json"
    text = failures_page(RESULT, {**ENVIRONMENT, "command": command}, data, [failure()], "")
    assert "objemb evaluate model --set shop.json" in text
    assert "someone" not in text
