from __future__ import annotations

import json

from objemb.evaluation.matrix import matrix, matrix_markdown

FIGURES = {"shop": "mAP", "roxford5k": "mAP medium", "ukbench": "N-S"}
RESULTS = [
    {"method": "mac", "set": "shop", "scores": {"mAP": 0.5, "P@1": 1.0}},
    {"method": "mac", "set": "roxford5k", "scores": {"mAP medium": None}},
    {"method": "mac", "set": "ukbench", "scores": {"N-S": 3.2}},
    {"method": "r|mac", "set": "shop", "error": "ValueError: no\nphotos"},
]


def test_methods_by_sets() -> None:
    assert matrix_markdown(matrix(RESULTS, FIGURES)) == (
        "| method | shop (mAP) | roxford5k (mAP medium) | ukbench (N-S) |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| mac | 50.0 | - | 3.20 |\n"
        "| r\\|mac | failed | - | - |\n"
        "\n"
        "- r\\|mac on shop: ValueError: no photos\n"
    )


def test_json() -> None:
    found = json.loads(json.dumps(matrix(RESULTS, FIGURES), allow_nan=False))
    assert found["methods"] == ["mac", "r|mac"]
    assert found["cells"]["mac"]["shop"] == {"score": 0.5}
    assert found["cells"]["r|mac"] == {"shop": {"error": "ValueError: no\nphotos"}}
    assert found["figures"] == FIGURES


def test_nothing() -> None:
    assert matrix_markdown(matrix([], {})) == "| method |\n| --- |\n"
