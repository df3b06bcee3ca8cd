from __future__ import annotations

from typing import Any

from objemb.evaluation.report import localisation_table, markdown_table, part_table, region_table, score_text
from objemb.evaluation.shares import with_shares


def result(**changes: Any) -> dict[str, Any]:
    return {
        "method": "mac",
        "scores": {"mAP": 0.81234, "P@1": None},
        "queries": 45,
        "skipped": 0,
        "localisation": None,
        "storage": {"vectors_per_image": 9.0, "bytes_per_image": 46080.0},
        **changes,
    }


def test_one_row_per_method() -> None:
    assert markdown_table([result(), result(method="a|b", skipped=2)]) == (
        "| method | mAP | P@1 | queries | vectors/image | bytes/image |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| mac | 81.2 | - | 45 | 9.0 | 46,080 |\n"
        "| a\\|b | 81.2 | - | 45 (2 skipped) | 9.0 | 46,080 |\n"
    )


def test_localisation_has_columns_where_any_method_has_it() -> None:
    located = result(localisation={"mean_iou": 0.5, "corloc": None, "boxes": 0})
    lines = markdown_table([located, result()]).splitlines()
    assert lines[0] == "| method | mAP | P@1 | IoU | CorLoc | queries | vectors/image | bytes/image |"
    assert lines[2].startswith("| mac | 81.2 | - | 50.0 | - |")
    assert lines[3].startswith("| mac | 81.2 | - | - | - |")


def test_cost_has_columns_where_any_method_has_it() -> None:
    lines = markdown_table([result(cost={"milliseconds": 12.34, "ratio": None}), result(cost=None)]).splitlines()
    assert lines[0].endswith("| bytes/image | ms/image | x network |")
    assert lines[2].endswith("| 46,080 | 12.3 | - |")
    assert lines[3].endswith("| 46,080 | - | - |")


def test_a_failed_method_says_why() -> None:
    lines = markdown_table([result(), {"method": "rmac", "error": "no\n| memory"}]).splitlines()
    assert lines[3] == "| rmac (failed: no \\| memory) | - | - | - | - | - |"
    assert markdown_table([{"method": "rmac", "error": "x"}]).startswith("| method | queries |")


def test_figures_that_are_no_shares_are_not_in_percent() -> None:
    assert score_text("N-S", 3.456) == "3.46"
    assert score_text("N-S", None) == "-"
    assert score_text("mAP medium", 0.5) == "50.0"
    assert "| 3.46 | 50.0 |" in markdown_table([result(scores={"N-S": 3.456, "mAP": 0.5})])


NOTHING = {"mAP": None, "P@1": None, "queries": 0, "mean_iou": None, "corloc": None, "boxes": 0}
SMALL = {"mAP": 0.25, "P@1": 0.5, "queries": 4, "mean_iou": 0.5, "corloc": 1.0, "boxes": 7}


def test_by_size() -> None:
    by_size = {"<9 %": SMALL, "9-19 %": NOTHING, "19-38 %": NOTHING}
    other = {**by_size, "9-19 %": {**SMALL, "mAP": 0.1}}
    results = [
        result(by_object_size=by_size),
        result(method="b", by_object_size=other),
        result(by_object_size=None),
        result(),
    ]
    assert part_table(results, "by_object_size").splitlines() == [
        "| method | <9 % | 9-19 % |",
        "| --- | ---: | ---: |",
        "| mac | 25.0 / 50.0 (4) | - |",
        "| b | 25.0 / 50.0 (4) | 10.0 / 50.0 (4) |",
    ]
    assert localisation_table(results).splitlines()[2] == "| mac | 50.0 / 100.0 (7) | - |"
    unlocated = {size: {"mAP": 0.5, "P@1": 0.5, "queries": 1} for size in by_size}
    assert localisation_table([result(by_object_size=unlocated)]) == ""
    assert part_table([result(by_object_size={"<9 %": NOTHING})], "by_object_size") == ""
    assert part_table([result()], "by_kind") == ""


def test_shares_of_a_reference_have_rows_of_their_own() -> None:
    kinds = {"in photo": {**SMALL, "mAP": 0.5}, "picture": SMALL}
    teacher = result(method="teacher", set="shop", scores={"mAP": 0.5, "P@1": None}, by_kind=kinds)
    student = result(method="student", set="shop", by_kind={"in photo": SMALL})
    results = with_shares([teacher, student], {"student": "teacher"})
    assert markdown_table(results).splitlines()[3:] == [
        "| student | 81.2 | - | 45 | 9.0 | 46,080 |",
        "| student: share of teacher | 1.625 | - | - | - | - |",
    ]
    assert part_table(results, "by_kind").splitlines()[3:] == [
        "| student | 25.0 / 50.0 (4) | - |",
        "| student: share of teacher | 0.500 / 1.000 | - |",
    ]


def test_by_regions() -> None:
    points = [{"max_regions": m, "score": s, "vectors_per_image": m + 1.0} for m, s in ((1, 0.5), (5, None))]
    lines = region_table([result(by_regions=points), result(method="b", by_regions=points[:1]), result()]).splitlines()
    assert lines == [
        "| method | 1 regions | 5 regions |",
        "| --- | ---: | ---: |",
        "| mac | 50.0 (2.0) | - (6.0) |",
        "| b | 50.0 (2.0) | - |",
    ]
    assert region_table([result(), result(by_regions=None)]) == ""


def test_no_results() -> None:
    assert markdown_table([]).startswith("| method | queries |")
