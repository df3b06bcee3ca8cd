"""Uploads and requests that are made to break the service: never a 500, and others are answered meanwhile."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from objemb.images.decode import UnreadableImageError
from objemb.serve import decoding
from objemb.serve.decoding import Decoders, UploadedPhoto
from objemb.serve.limits import Limits
from objemb.serve.problems import Problem
from objemb.serve.service import Options
from tests.serve.conftest import Served, encoded, picture, serving

MUTATIONS = 200


def mutated(count: int) -> Iterator[bytes]:
    """Photos of all kinds with changed, missing and repeated bytes."""
    rng = np.random.default_rng(0)
    kinds = [encoded(picture(n, (40, 30)), kind) for n, kind in enumerate(("JPEG", "PNG", "WEBP", "BMP", "TIFF"))]
    for number in range(count):
        content = bytearray(kinds[number % len(kinds)])
        for place in rng.integers(0, len(content), 1 + number % 9):
            content[place] = rng.integers(256)
        if number % 3 == 0:
            del content[rng.integers(1, len(content)) :]
        if number % 7 == 0:
            content += content[: rng.integers(1, len(content))]
        yield bytes(content)


def test_mutated_uploads_are_answered_or_refused(served: Served) -> None:
    count = int(os.environ.get("OBJEMB_MUTATIONS", MUTATIONS))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(served.search, mutated(count)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 422}
    assert all(a.json()["status"] == 422 and a.json()["found"] for a in answers if a.status_code == 422)


def test_a_photo_may_take_so_much_processor_time(shared_index: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(file, "PNG", compress_level=1)
    with serving(shared_index, Options(Limits(decode_seconds=0.02), decoders=2)) as running:
        small = [encoded(picture(number, (40, 30))) for number in range(7)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(running.search, [file.getvalue(), *small]))
        assert [answer.status_code for answer in answers] == [422, *[200] * 7]
        assert answers[0].json()["found"] == "decoding takes more than 0.02 s of processor time"


def test_a_decoder_without_a_processor_is_not_the_fault_of_the_photo() -> None:
    decoders = Decoders(2, Limits(request_seconds=2.0, decode_seconds=0.5))
    try:
        for _ in range(2):  # both have started
            decoders.pixels(encoded(picture(0)), "a", None, None)
        stopped = decoders._idle.get()
        assert stopped is not None
        os.kill(stopped._process.pid, signal.SIGSTOP)
        decoders._idle.put(stopped)

        with ThreadPoolExecutor(4) as pool:
            decoded = [pool.submit(decoders.pixels, encoded(picture(n)), "a", None, None) for n in range(8)]
        (problem,) = (error for future in decoded if (error := future.exception()) is not None)
        assert isinstance(problem, Problem)
        assert (problem.status, problem.retry) == (503, 1)
        assert decoders.pixels(encoded(picture(0)), "a", None, None).size == (100, 120)
    finally:
        decoders.close()


def test_a_decoder_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    decoders = Decoders(1, Limits())
    try:
        with pytest.raises(Problem, match="decoder: expected a process that starts and is not ended") as raised:
            decoders.pixels(encoded(picture(0)), "a", None, None)
        assert (raised.value.status, raised.value.retry) == (503, 1)
    finally:
        decoders.close()


def test_a_decoder_that_was_ended_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders(1, Limits())
    try:
        process = decoders._idle.get()
        assert process is not None
        process._process.kill()
        process._process.wait()
        decoders._idle.put(process)
        assert decoders.pixels(encoded(picture(0)), "a", None, None).size == (100, 120)

        def crash(process: Any, *_: object) -> None:
            process._is_ready = True
            raise EOFError

        with monkeypatch.context() as patch:
            patch.setattr(decoding._Process, "ask", crash)
            with pytest.raises(UnreadableImageError, match="the decoder crashed"):
                decoders.pixels(encoded(picture(0)), "a", None, None)
        assert decoders.pixels(encoded(picture(0)), "a", None, None).size == (100, 120)
    finally:
        decoders.close()


def test_a_decoder_gives_what_this_process_would(photos: Path) -> None:
    from objemb.images.decode import read_photo

    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3, (640, 480)).save(file, "JPEG", exif=exif)
    decoders = Decoders(1, Limits(pixels=10**6))
    try:
        for side, part in ((None, None), (50, None), (50, 100.0)):
            expected = read_photo(file.getvalue(), id="a", side=side, part=part)
            found = UploadedPhoto(file.getvalue(), "a", decoders).decoded(side, part, 10**6)
            assert (found.size, found.orientation, found.id) == (expected.size, 6, "a")
            np.testing.assert_array_equal(found.pixels, expected.pixels)
        with pytest.raises(UnreadableImageError, match="too many pixels: expected at most 1,000,000"):
            decoders.pixels(encoded(Image.new("RGB", (2000, 1000))), "big", None, None)
    finally:
        decoders.close()


def test_decoders_get_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJEMB_TOKEN", "the-token-of-the-tests")
    process = decoding._Process(1000)
    try:
        environment = Path(f"/proc/{process._process.pid}/environ")
        if not environment.exists():
            pytest.skip("needs /proc")
        assert b"the-token" not in environment.read_bytes()
    finally:
        process.end()


def test_requests_made_from_the_description(served: Served) -> None:
    """Schemathesis makes requests of all kinds from the OpenAPI document: none may be answered with a 500."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    described: Any = schemathesis.openapi.from_dict(served.client.get("/openapi.json").json())
    examples = int(os.environ.get("OBJEMB_FUZZ", "25"))
    counted = 0
    for operation in described.get_all_operations():
        case_of = operation.ok().as_strategy()

        @given(case=case_of)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def ask(case: Any) -> None:
            nonlocal counted
            answer = case.call(base_url=served.url)
            counted += 1
            assert answer.status_code < 500 or answer.status_code == 503, (case, answer.text)

        ask()
    assert counted > 100
    assert served.client.get("/healthz").status_code == 200


def test_thousands_of_boxes_and_deep_documents(served: Served) -> None:
    photo = encoded(picture(0))
    begun = time.monotonic()
    for query in (
        '{"boxes": [' + ",".join(["[1, 1, 5, 5]"] * 101) + "]}",
        '{"where": "' + "(" * 1500 + '"}',
        '{"where": "' + "label = cup and " * 200 + '"}',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"k": ' + "9" * 10_000 + "}",
        '{"where": "price = ' + "9" * 200 + '"}',
        '{"image": "' + "a" * 2000 + '"}',
        '{"image": "\\ud800"}',
    ):
        assert served.search(photo, query).status_code in (404, 422), query[:60]
    assert time.monotonic() - begun < 20
