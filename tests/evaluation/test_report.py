from __future__ import annotations

from typing import Any

from objemb.evaluation.report import markdown_table


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


def test_no_results() -> None:
    assert markdown_table([]).startswith("| method | queries |")
