from __future__ import annotations

from typing import Any

import pytest

from objemb.evaluation.shares import share, with_shares


def result(method: str, mean: float | None, *, name: str = "shop", **parts: Any) -> dict[str, Any]:
    return {"method": method, "set": name, "scores": {"mAP": mean, "P@1": 0.5}, **parts}


def test_a_share_is_a_quotient_where_there_is_one() -> None:
    assert share(0.4, 0.8) == 0.5
    assert share(0.0, 0.8) == 0.0
    assert share(0.4, 0.0) is None
    assert share(None, 0.8) is None
    assert share(0.4, None) is None


def test_shares_by_hand() -> None:
    sizes = {"<9 %": {"mAP": 0.8, "P@1": 1.0, "queries": 4}, "9-19 %": {"mAP": None, "P@1": None, "queries": 0}}
    fewer = {"<9 %": {"mAP": 0.6, "P@1": 0.75, "queries": 4}, "9-19 %": {"mAP": 0.3, "P@1": 0.0, "queries": 1}}
    located = {"<9 %": {**fewer["<9 %"], "mean_iou": 0.5}}
    teacher = result("teacher", 0.8, by_query_size=sizes, by_object_size=sizes, by_kind={"picture": sizes["<9 %"]})
    student = result("student", 0.6, by_query_size=fewer, by_object_size=located, by_kind=None)
    found = with_shares([student, teacher], {"student": "teacher"})
    assert found[1] == teacher
    assert {k: v for k, v in found[0].items() if k != "share"} == student
    assert found[0]["share"] == {
        "of": "teacher",
        "scores": {"mAP": pytest.approx(0.75), "P@1": 1.0},
        "by_kind": None,
        "by_query_size": {
            "<9 %": {"mAP": pytest.approx(0.75), "P@1": 0.75},
            "9-19 %": {"mAP": None, "P@1": None},
        },
        "by_object_size": {"<9 %": {"mAP": pytest.approx(0.75), "P@1": 0.75}},
    }


def test_each_set_has_its_own_reference_and_failures_have_none() -> None:
    results = [
        result("teacher", 0.8),
        result("student", 0.4),
        {"method": "teacher", "set": "fridge", "error": "no memory"},
        result("student", 0.4, name="fridge"),
        result("teacher", 0.5, name="grocery"),
        {"method": "student", "set": "grocery", "error": "no memory"},
    ]
    found = with_shares(results, {"student": "teacher"})
    assert [(r["method"], r["set"]) for r in found if "share" in r] == [("student", "shop")]
    assert with_shares(results, {}) == results
    assert with_shares([], {"student": "teacher"}) == []
