from __future__ import annotations

from typing import Any

from objemb.evaluation.report import markdown_table, region_table, score_text, size_table


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


def test_by_size() -> None:
    nothing = {"mAP": None, "queries": 0, "mean_iou": None, "corloc": None, "boxes": 0}
    small = {"mAP": 0.25, "queries": 3, "mean_iou": 0.5, "corloc": 1.0, "boxes": 7}
    by_size = {"<1 %": small, "1-10 %": nothing, ">10 %": nothing}
    lines = size_table([result(by_size=by_size), result(by_size=None), result()]).splitlines()
    assert lines[0].startswith("| method | mAP <1 % | IoU <1 % | CorLoc <1 % | mAP 1-10 % |")
    assert lines[2:] == ["| mac | 25.0 (3) | 50.0 (7) | 100.0 (7) | - | - | - | - | - | - |"]
    unlocated = {size: {"mAP": None, "queries": 0} for size in by_size}
    assert size_table([result(by_size=unlocated)]).startswith("| method | mAP <1 % | mAP 1-10 % | mAP >10 % |")
    assert size_table([result()]) == ""


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
