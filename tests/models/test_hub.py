"""Models on the hub, against a stand-in of its API on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import objemb
from objemb.card import CARD, read_card, write_folder
from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.cli.app import command_line
from objemb.models.hub import hub_card, model_folder, push_model

constants = pytest.importorskip("huggingface_hub.constants")

NAME = "hf:house/cups"


class Hub(BaseHTTPRequestHandler):
    """Repositories of files by branch; what is committed is there at once."""

    repositories: dict[str, dict[str, dict[str, bytes]]]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.resolve(body=False)

    def do_GET(self) -> None:
        self.resolve(body=True)

    def resolve(self, body: bool) -> None:
        self.asked.append(self.path)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repository = self.repositories.get(found[1]) if found else None
        if repository is None:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        branches = {commit(files): files for files in repository.values()}
        files = repository.get(found[2]) or branches.get(found[2])  # type: ignore[index]
        if files is None:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if found[3] not in files:  # type: ignore[index]
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit(files)})
        content = files[found[3]]  # type: ignore[index]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit(files)}
        return self.answer(200, content, headers, body=body)

    def do_POST(self) -> None:
        said = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append(self.path)
        if self.path == "/api/repos/create":
            name = json.loads(said)
            repository = f"{name['organization']}/{name['name']}" if name.get("organization") else name["name"]
            self.repositories.setdefault(repository, {"main": {}})
            return self.in_json({"url": f"http://{self.headers['Host']}/{repository}"})
        if self.path == "/api/validate-yaml":
            return self.in_json({"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", self.path)
        assert found is not None, self.path
        if found[2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(said)["files"]
            ]
            return self.in_json({"files": files})
        branch = self.repositories[found[1]].setdefault(found[3], {})
        for line in map(json.loads, said.splitlines()):
            if line["key"] == "file":
                branch[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"http://{self.headers['Host']}/{found[1]}/commit/{commit(branch)}"
        return self.in_json({"commitUrl": url, "commitOid": commit(branch), "success": True})

    def in_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, code: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def commit(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"repositories": {}, "asked": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler
    running.shutdown()
    running.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    card: dict[str, Any] = {
        "fingerprint": "a" * 64,
        "dim": 8,
        "settings": {"describer": {"name": "one_pass"}, "aggregator": {"name": "keep"}, "rerank": []},
        "provenance": {
            "created": "2026-11-29T08:00:00+00:00",
            "command": ["objemb", "train", "distill_products", "a|b"],
            "weights": {"describer.detector.weights": {"name": "COCO_V1", "sha256": "b" * 64}},
            "training": {"task": "distill"},
            "versions": {"objemb": "1.0"},
        },
    }
    write_folder(
        tmp_path / "m", card, lambda p: (p / "weights.safetensors").write_bytes(b"tensors") and None, force=True
    )
    (tmp_path / "m" / "report.md").write_text("# Distillation card\n\nmAP 0.75 of 120 queries\n")
    (tmp_path / "m" / "notes.txt").write_text("not to be published")
    return tmp_path / "m"


def test_there_and_back(folder: Path, server: type[Hub]) -> None:
    address = push_model(folder, NAME, license="apache-2.0")
    files = server.repositories["house/cups"]["main"]
    assert sorted(files) == ["README.md", CARD, "weights.safetensors"]
    assert address.endswith(f"house/cups/commit/{commit(files)}")
    back = model_folder(NAME)
    assert read_card(back) == read_card(folder)
    assert (back / "weights.safetensors").read_bytes() == b"tensors"
    assert not (back / "README.md").exists(), "only what the card lists is fetched"


def test_a_revision(folder: Path, server: type[Hub]) -> None:
    push_model(folder, NAME, license="apache-2.0")
    first = commit(server.repositories["house/cups"]["main"])
    card = {**read_card(folder), "fingerprint": "c" * 64}
    (folder / CARD).write_text(json.dumps(card))
    push_model(folder, f"{NAME}@dev", license="mit")
    assert read_card(model_folder(f"{NAME}@dev"))["fingerprint"] == "c" * 64
    assert read_card(model_folder(f"{NAME}@{first}"))["fingerprint"] == "a" * 64
    assert read_card(model_folder(NAME))["fingerprint"] == "a" * 64


def test_the_card_for_people(folder: Path) -> None:
    text = hub_card(read_card(folder), "house/cups", "apache-2.0", "mAP 0.75 of 120 queries")
    _, head, body = text.split("---\n", 2)
    said = yaml.safe_load(head)
    assert (said["library_name"], said["license"]) == ("objemb", "apache-2.0")
    assert {"objemb", "one_pass", "pytorch"} <= set(said["tags"])
    for part in ("a" * 64, "objemb train distill_products a\\|b", "COCO_V1", "b" * 64, "mAP 0.75 of 120 queries"):
        assert part in body
    assert 'objemb.load("hf:house/cups")' in body


def test_the_card_of_an_exported_model_says_what_was_verified(folder: Path) -> None:
    boxes = {"photos": 9, "matched": 11, "unmatched": 1, "score": 2e-6, "cosine": 0.9999987}
    verified = {"onnxruntime": {"on": "generated scenes", **boxes, "map_pytorch": 100.0, "map_exported": 99.5}}
    card: Any = {**read_card(folder), "export": {"format": "onnx", "precision": "fp16", "verified": verified}}
    figures = hub_card(card, "house/cups", "apache-2.0", "").partition("## Figures\n")[2]
    assert figures.strip() == (
        "- onnxruntime against PyTorch, 9 generated scenes: 11 of 12 boxes, scores within 2e-06, least cosine of a "
        "vector 0.999999, mAP 99.5 (100.0 by PyTorch)"
    )
    card["export"]["verified"] = {}
    assert "None were recorded with this model." in hub_card(card, "house/cups", "apache-2.0", "")


def test_what_was_fetched_is_there_without_a_network(
    folder: Path, server: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    push_model(folder, NAME, license="apache-2.0")
    there = model_folder(NAME)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    assert model_folder(NAME) == there


def test_without_a_network_the_error_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{_closed_port()}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between two tries to reach it
    with pytest.raises(ObjembError, match=f"^{NAME}: expected a repository within reach on {endpoint}, found"):
        objemb.load(NAME)
    with pytest.raises(ObjembError, match=f"^{NAME}: expected a repository within reach on {endpoint}, found"):
        push_model(folder, NAME, license="apache-2.0")


def test_what_is_not_there(folder: Path, server: type[Hub]) -> None:
    with pytest.raises(ObjembError, match="RepositoryNotFoundError"):
        objemb.load("hf:house/pots")
    push_model(folder, NAME, license="apache-2.0")
    with pytest.raises(ObjembError, match="RevisionNotFoundError"):
        objemb.load(f"{NAME}@v9")
    del server.repositories["house/cups"]["main"][CARD]
    with pytest.raises(ObjembError, match="EntryNotFoundError"):
        objemb.load(NAME)


@pytest.mark.parametrize("name", ["hf:cups", "hf:", "hf:a/b/c", "hf:house/cups@", "hf:../../etc", "hf:house/cups@a b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="expected hf:ORG/NAME or hf:ORG/NAME@REVISION, found"):
        objemb.load(name)


def test_a_stranger_lists_files_elsewhere(folder: Path, server: type[Hub]) -> None:
    push_model(folder, NAME, license="apache-2.0")
    card = read_card(folder)
    card["files"]["../../secret"] = {"sha256": "0" * 64}
    server.repositories["house/cups"]["main"][CARD] = json.dumps(card).encode()
    with pytest.raises(ObjembError, match=r"expected files of the folder itself, found '\.\./\.\./secret'"):
        model_folder(NAME)


def test_a_damaged_model_is_not_published(folder: Path, server: type[Hub]) -> None:
    (folder / "weights.safetensors").write_bytes(b"tensor")
    with pytest.raises(ArtefactMismatchError, match="expected sha256"):
        push_model(folder, NAME, license="apache-2.0")
    assert not server.asked


def test_the_commands(folder: Path, server: type[Hub]) -> None:
    run = CliRunner()
    done = run.invoke(command_line(), ["model", "push", str(folder), NAME, "--license", "apache-2.0", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["place"] == NAME
    assert "a" * 64 in run.invoke(command_line(), ["model", "info", NAME, "--json"]).stdout


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
