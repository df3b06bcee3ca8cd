"""The answers of the service: those of the command line, and problems that name expected and found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from objemb.cli.app import command_line
from objemb.index.storage.calibration import Calibration
from objemb.index.store import Index
from objemb.ops.upper_tail import UpperTail
from objemb.search.opening import open_retrieval
from objemb.serve.service import Options
from tests.serve.conftest import COUNT, Served, encoded, picture, serving


def printed(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object) -> bytes:
    """What ``objemb search --json`` prints in a folder."""
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(command_line(), ["search", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return done.stdout_bytes


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({}, []),
        ({"boxes": [[10, 20, 60, 80]], "k": 3}, ["--box", "10,20,60,80", "-k", "3"]),
        ({"boxes": "whole", "where": "label = cup and price > 2"}, ["--whole", "--where", "label = cup and price > 2"]),
        ({"boxes": "detector", "min_score": 0.9}, ["--auto", "--min-score", "0.9"]),
        (
            {"boxes": [[10, 20, 60, 80], [0, 0, 9, 9]], "crop": "crop"},
            ["--box", "10,20,60,80", "--box", "0,0,9,9", "--crop", "crop"],
        ),
        ({"boxes": [[10, 20, 60, 80]], "rerank": []}, ["--box", "10,20,60,80", "--rerank", "none"]),
    ],
)
def test_answers_are_those_of_the_command_line_byte_for_byte(
    served: Served,
    shared_index: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, Any],
    options: list[str],
) -> None:
    answer = served.search((photos / "shelf" / "1.png").read_bytes(), json.dumps(query))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == printed(monkeypatch, photos / "shelf", shared_index, "1.png", *options)


def test_expected_false_photos_are_those_of_the_command_line(
    index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = UpperTail(0.5, 0.25, 0.05, -0.1, (-1.0, 0.5))
    Index.open(index).set_calibration(Calibration(tail, 200, 100, COUNT, COUNT, {"instance": "label", "queries": 200}))
    photo, box = (photos / "shelf" / "1.png").read_bytes(), [[10, 20, 60, 80]]
    with serving(index, Options(decoders=1)) as running:
        assert running.client.get("/v1/info").json()["index"]["calibrated"] is True
        kept: dict[float | None, list[Any]] = {}
        for most in (None, 100.0, 0.05):
            query = {"boxes": box} if most is None else {"boxes": box, "at_most_false": most}
            answer = running.search(photo, json.dumps(query))
            options = ["--box", "10,20,60,80", *([] if most is None else ["--at-most-false", str(most)])]
            assert answer.content == printed(monkeypatch, photos / "shelf", index, "1.png", *options)
            kept[most] = answer.json()["hits"]
        scores = [hit["score"] for hit in kept[None]]
        # one query row; COUNT images, as many as at the time of the calibration; at least 1 of 200 rows
        reached = [min(max(tail.exceeded(score), 1 / 200), 1 - 1 / 200) for score in scores]
        assert [hit["p_false"] for hit in kept[None]] == pytest.approx([-math.log1p(-p) for p in reached])
        assert kept[100.0] == kept[None]
        assert kept[0.05] == [hit for hit in kept[None] if hit["p_false"] <= 0.05]
        assert 0 < len(kept[0.05]) < COUNT
        too_small = running.search(photo, json.dumps({"boxes": box, "at_most_false": 1e-9}))
        assert too_small.status_code == 422
        assert "the fewest that a calibration with 200 boxes can estimate" in too_small.json()["expected"]
        mean = {"boxes": box, "at_most_false": 1, "like": [{"image": "0.png"}], "combine": "mean"}
        assert "the combiner 'best'" in running.search(photo, json.dumps(mean)).json()["expected"]


def test_an_index_without_calibration_expects_none(served: Served) -> None:
    answer = served.search(encoded(picture(0)), '{"at_most_false": 1}')
    assert (answer.status_code, answer.json()["found"]) == (422, "one without")
    assert {hit["p_false"] for hit in served.search(encoded(picture(0))).json()["hits"]} == {None}


def test_views_and_counter_examples(
    served: Served, shared_index: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    query = {
        "boxes": [[10, 20, 60, 80]],
        "like": [{"upload": "second"}, {"image": "shelf/3.png", "boxes": [[5, 5, 50, 50]]}],
        "unlike": [{"upload": "third", "boxes": [[0, 0, 40, 40]]}],
        "combine": "mean,margin=0.02",
    }
    names = {"photo": "0.png", "second": "2.png", "third": "4.png"}
    files = {part: (name, Path(name).read_bytes()) for part, name in names.items()}
    answer = served.client.post("/v1/search", files=files, data={"query": json.dumps(query)})
    options = ["--like", "2.png", "--like", "shelf/3.png:5,5,50,50", "--unlike", "4.png:0,0,40,40"]
    options += ["--combine", "mean,margin=0.02", "--box", "10,20,60,80"]
    assert answer.content == printed(monkeypatch, photos, shared_index, "0.png", *options)


def test_an_indexed_photo_is_searched_for_by_its_id(served: Served, shared_index: Path, photos: Path) -> None:
    query = {"image": "shelf/1.png", "boxes": [[10, 20, 60, 80]], "exclude": ["shelf/1.png"]}
    answer = served.client.post("/v1/search", json=query)
    found = open_retrieval(shared_index).search(photos / "shelf" / "1.png", [(10, 20, 60, 80)], exclude=["shelf/1.png"])
    assert [h["image"] for h in answer.json()["hits"]] == [h.image for h in found]
    assert len(found) == COUNT - 1
    assert answer.json()["query"] == {
        "image": "shelf/1.png",
        "boxes": [[10, 20, 60, 80]],
        "more_views": [],
        "unlike": [],
    }


def test_detected_objects_are_those_of_the_command_line(served: Served, photos: Path, model: Path) -> None:
    photo = photos / "0.png"
    answer = served.client.post("/v1/detect", files={"photo": ("0.png", photo.read_bytes())})
    done = CliRunner().invoke(command_line(), ["detect", str(photo), "--model", str(model), "--json"])
    assert answer.json() == json.loads(done.stdout)["images"][0]


def test_a_photo_is_described_as_in_python(served: Served, shared_index: Path, photos: Path) -> None:
    photo, boxes = photos / "0.png", [[3, 4, 50, 60]]
    model = open_retrieval(shared_index).model
    for given in (None, boxes):
        query = json.dumps({"boxes": given})
        files = {"photo": ("0.png", photo.read_bytes())}
        answer = served.client.post("/v1/describe", files=files, data={"query": query}).json()
        described = model.describe(photo, given)
        assert answer["size"] == [100, 120]
        np.testing.assert_array_equal([r["vector"] for r in answer["regions"]], described.vectors)
        np.testing.assert_array_equal([r["box"] for r in answer["regions"]], described.regions.boxes)


def test_what_is_stored_of_an_image(served: Served) -> None:
    stored = served.client.get("/v1/images/shelf%2F1.png").json()
    assert (stored["image"], stored["size"], stored["metadata"]) == ("shelf/1.png", [100, 120], {"price": 1})
    assert stored["photo"] is True
    assert [r["label"] for r in stored["regions"]] == [None, "pot", "cup"]
    assert served.client.get("/v1/images/shelf/1.png").json() == stored, "a slash need not be encoded"


def test_the_library_is_listed_in_pages(served: Served) -> None:
    first = served.client.get("/v1/images", params={"limit": 5}).json()
    second = served.client.get("/v1/images", params={"limit": 5, "start": first["next"]}).json()
    assert (first["total"], first["next"], second["next"]) == (COUNT, 5, None)
    assert len({*first["images"], *second["images"]}) == COUNT
    few = served.client.get("/v1/images", params={"where": "price >= 6"}).json()
    assert few == {"images": ["6.png", "shelf/7.png"], "total": 2, "next": None}
    assert served.client.get("/v1/images", params={"start": 100}).json()["images"] == []


def test_info_names_no_path_of_this_machine(served: Served, shared_index: Path) -> None:
    answer = served.client.get("/v1/info")
    info = answer.json()
    assert info["index"]["images"] == COUNT
    assert info["index"]["columns"] == ["price"]
    assert info["index"]["labels"] == ["cup", "pot"]
    assert info["model"]["detector"] is True
    assert str(shared_index.parent) not in answer.text


@pytest.mark.parametrize(
    ("query", "status", "expected", "found"),
    [
        ('{"boxes": [[10, 20, 600, 80]]}', 422, "inside the image of 120 x 100", "(10, 20, 600, 80)"),
        ('{"boxes": [[10, 20, 60]]}', 422, "at least 4 items", "[10, 20, 60]"),
        ('{"boxes": "hole"}', 422, "'whole', 'detector' or 'both'", "'hole'"),
        ('{"k": 0}', 422, "greater than or equal to 1", "0"),
        ('{"k": "3"}', 422, "a valid integer", "'3'"),
        ('{"k": 1000000000}', 422, "less than or equal to 1000", ""),
        ('{"boxs": []}', 422, "no such key", "did you mean 'boxes'"),
        ('{"where": "label ="}', 422, "a value", "the end at position 8"),
        ('{"where": "prize > 2"}', 422, None, None),
        ('{"rerank": ["diffusion"]}', 422, "'none that a request may name'", "'diffusion'"),
        ('{"combine": "best,weights=/etc/passwd"}', 422, "match pattern", ""),
        ('{"image": "nothing.png"}', 404, "the id of an indexed image", "one that is not in the index"),
        ('{"image": "../list.csv"}', 404, "the id of an indexed image", "one that is not in the index"),
        ('{"image": "0.png", "upload": "photo"}', 422, "one of 'upload' and 'image'", "both"),
        ('{"upload": "other"}', 422, "a part 'other' of the form", "'photo'"),
        ("{", 422, "valid JSON", ""),
        ("[]", 422, "", "[]"),
        ('{"boxes": [[NaN, 0, 1, 1]]}', 422, "", ""),
        ('{"boxes": [[1e400, 0, 1, 1]]}', 422, "a finite number", ""),
    ],
)
def test_problems_name_expected_and_found(
    served: Served, query: str, status: int, expected: str | None, found: str | None
) -> None:
    answer = served.search(encoded(picture(0)), query)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "about:blank"
    if expected is not None and found is not None:
        assert expected in problem["expected"], problem
        assert found in problem["found"], problem


def test_the_parser_of_filters_points_at_the_mistake(served: Served) -> None:
    detail = served.search(encoded(picture(0)), '{"where": "label ="}').json()["detail"]
    assert detail.split("\n")[1:] == ["  label =", "         ^"]


@pytest.mark.parametrize("content", [b"", b"GIF89a...", b"\x89PNG\r\n\x1a\n", encoded(picture(0))[:300]])
def test_a_photo_that_cannot_be_read(served: Served, content: bytes) -> None:
    answer = served.search(content)
    assert answer.status_code == 422
    assert answer.json()["expected"] == "a readable photo"


def test_bodies_of_other_kinds(served: Served) -> None:
    plain = served.client.post("/v1/search", content=b"hello", headers={"Content-Type": "text/plain"})
    assert (plain.status_code, plain.json()["found"]) == (415, "text/plain")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert served.client.post("/v1/search", content=b"hello", headers=broken).status_code in (400, 422)
    nameless = {"Content-Type": "multipart/form-data"}
    assert served.client.post("/v1/search", content=b"hello", headers=nameless).status_code == 400
    twice = [("photo", ("a", b"x")), ("photo", ("b", b"y"))]
    assert "two of one name" in served.client.post("/v1/search", files=twice).json()["found"]
    assert served.client.post("/v1/search", files={"photo": b"x"}, data={"other": "{}"}).status_code == 422


def test_what_a_service_that_only_reads_refuses(served: Served) -> None:
    answer = served.client.put("/v1/images/new", files={"photo": ("a.png", encoded(picture(0)))})
    assert answer.status_code == 403
    assert "--writable" in answer.json()["expected"]
    assert served.client.delete("/v1/images/0.png").status_code == 403


def test_unknown_paths_and_methods(served: Served) -> None:
    assert served.client.get("/v1/nothing").status_code == 404
    assert served.client.get("/v1/search").status_code == 405
    assert served.client.get("/v1/images", params={"limit": 10_000}).json()["expected"].startswith("less than")
    for path in ("/../pyproject.toml", "/static/index.html", "/index.html", "/%2e%2e/%2e%2e/etc/passwd", "/docs"):
        assert served.client.get(path).status_code == 404, path


def test_states(served: Served) -> None:
    assert served.client.get("/healthz").json() == {"status": "ok"}
    assert served.client.get("/readyz").json() == {"status": "ok", "index": "newest"}
    served.search(encoded(picture(0)))
    lines = dict(line.rsplit(" ", 1) for line in served.client.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines["objemb_index_images"]) == COUNT
    assert float(lines["objemb_index_rows"]) == 3 * COUNT
    assert float(lines["objemb_index_generation"]) == 1
    assert float(lines["objemb_queue"]) == 0
    assert float(lines['objemb_requests_total{method="POST",route="/v1/search",status="200"}']) >= 1
    assert float(lines['objemb_request_seconds_count{route="/v1/search"}']) >= 1
    assert float(lines["objemb_batch_size_count"]) >= 1
    assert not any("1.png" in name for name in lines), "ids would be as many labels"


def test_the_description_of_the_interface(served: Served) -> None:
    described = served.client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        *("/v1/search", "/v1/detect", "/v1/describe", "/v1/images", "/v1/images/{id}", "/v1/photos/{id}"),
        *("/v1/info", "/healthz", "/readyz", "/metrics"),
    }
    text = json.dumps(described)
    for reference in set(text.split('"#/components/schemas/')[1:]):
        assert reference.partition('"')[0] in described["components"]["schemas"]
    assert described["components"]["schemas"]["SearchRequest"]["examples"]
