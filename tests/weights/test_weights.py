from __future__ import annotations

import hashlib
import threading
import time
import urllib.error
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from objemb import disk
from objemb.checks import MissingWeightsError
from objemb.weights import download
from objemb.weights.download import fetch
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file, locate
from objemb.weights.read import UnreadableWeightsError, read_weights


class Explosive:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(body=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), head=nn.Linear(4, 2)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(download, "urlopen", refuse)


# ---- reading


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: dict(s),
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"model_state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    ],
)
def test_wrapped_state_dicts_are_found(tmp_path: Path, wrap) -> None:
    state = network().state_dict()
    torch.save(wrap(state), tmp_path / "a.pth")
    read = read_weights(tmp_path / "a.pth")
    assert list(read) == list(state)
    assert all(torch.equal(read[k], state[k]) for k in state)


def test_safetensors_and_old_torch_files_are_read(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(dict(state), tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "a.pt"):
        read = read_weights(tmp_path / file)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[k], state[k]) for k in state)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Explosive()}, tmp_path / "bomb.pth")
    with pytest.raises(UnreadableWeightsError, match=r"bomb\.pth.*refused"):
        read_weights(tmp_path / "bomb.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"no weights", bytes(range(256)) * 9])
def test_files_of_something_else_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableWeightsError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    state = dict(network().state_dict())
    if suffix == ".pth":
        torch.save(state, whole)
    else:
        save_file(state, whole)
    data = whole.read_bytes()
    for keep in (1, 9, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:keep])
        with pytest.raises(UnreadableWeightsError):
            read_weights(cut)


@pytest.mark.parametrize("content", [torch.ones(2), [torch.ones(2)], {}, {"a": 1}, {1: torch.ones(1)}, {"model": {}}])
def test_tensors_without_names_are_refused(tmp_path: Path, content) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnreadableWeightsError, match="expected a state dict"):
        read_weights(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"none at .*a\.pth"):
        read_weights(tmp_path / "a.pth")


# ---- filling


def test_filling_makes_networks_equal() -> None:
    source, target = network(), network()
    nn.init.ones_(target.head.weight)
    fill(target, source.state_dict(), "file")
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_a_part_ignores_the_rest_of_the_whole() -> None:
    body = nn.Sequential(OrderedDict(body=network().body))
    fill(body, network().state_dict(), "file")


def test_batch_counts_may_be_missing() -> None:
    state = {k: v for k, v in network().state_dict().items() if not k.endswith("num_batches_tracked")}
    fill(network(), state, "file")


def test_missing_tensors_are_counted_and_named() -> None:
    state = {k: v for k, v in network().state_dict().items() if k.startswith("head")}
    with pytest.raises(
        UnreadableWeightsError, match=r"file: 6 tensors .* 'body\.0\.weight'.* and 3 more, found 'head\.w"
    ):
        fill(network(), state, "file")


def test_more_layers_inside_are_another_architecture_unless_known() -> None:
    body = nn.Sequential(OrderedDict(body=network().body[:1]))
    state = network().state_dict()
    with pytest.raises(
        UnreadableWeightsError, match=r"5 tensors belong to another architecture: found 'body\.1\.weight'"
    ):
        fill(body, state, "file")
    fill(body, state, "file", known=state.keys())


def test_wrong_shapes_and_values_are_named() -> None:
    state = {**network().state_dict(), "head.weight": torch.ones(3, 4)}
    with pytest.raises(UnreadableWeightsError, match=r"head\.weight.*\[3, 4\].*\[2, 4\]"):
        fill(network(), state, "file")
    state["head.weight"] = torch.tensor([[0.0, float("nan"), 0, 0]] * 2)
    with pytest.raises(UnreadableWeightsError, match=r"NaN.*'head\.weight'"):
        fill(network(), state, "file")


# ---- fetching


def test_a_cached_file_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    cache.mkdir(parents=True)
    (cache / "net-12345678.pth").write_bytes(b"x")
    assert fetch("https://example.invalid/a/net-12345678.pth?v=1") == cache / "net-12345678.pth"
    assert locate("V1", {"V1": "https://example.invalid/net-12345678.pth"}) == cache / "net-12345678.pth"


def test_without_network_the_error_says_what_to_place_where(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    with pytest.raises(MissingWeightsError) as caught:
        fetch("https://example.invalid/net-12345678.pth")
    for part in ("https://example.invalid/net-12345678.pth", str(cache / "net-12345678.pth"), "no route to host"):
        assert part in str(caught.value)
    assert not cache.exists()


def test_a_network_that_never_answers_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(download, "urlopen", lambda *args, **kwargs: release.wait(20))
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(MissingWeightsError, match=r"no answer within 0\.1 seconds"):
        fetch("https://example.invalid/net.pth")
    release.set()
    assert time.monotonic() - start < 15


def test_downloads_are_checked_and_whole_or_absent(cache: Path, tmp_path: Path) -> None:
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, fits in ((f"net-{digest}.pth", True), ("net-00000000.pth", False)):
        (tmp_path / name).write_bytes(content)
        url = (tmp_path / name).as_uri()
        if fits:
            assert fetch(url).read_bytes() == content
        else:
            with pytest.raises(MissingWeightsError, match="begins with 00000000"):
                fetch(url)
    assert [f.name for f in cache.iterdir()] == [f"net-{digest}.pth"]


def test_a_download_says_how_far_it_is(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "net.pth").write_bytes(b"x" * 2_500_000)
    monkeypatch.setattr(download, "TELL_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="objemb.weights.download"):
        fetch((tmp_path / "net.pth").as_uri())
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].endswith(f"to {cache / 'net.pth'}, 2.5 MB")
    assert lines[1:] == [f"downloading net.pth: {size} MB so far" for size in ("1.0", "2.1", "2.5")]


def test_a_download_that_breaks_off_leaves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.pth").write_bytes(b"x" * 100)
    real = download.urlopen

    def broken(request, timeout):
        answer = real(request, timeout=timeout)
        answer.headers.replace_header("Content-Length", "200")
        return answer

    monkeypatch.setattr(download, "urlopen", broken)
    with pytest.raises(MissingWeightsError, match="expected 200 bytes, found 100"):
        fetch((tmp_path / "net.pth").as_uri())
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), TimeoutError("timed out")])
def test_a_broken_connection_is_reported_as_such(
    error: OSError, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.pth").write_bytes(b"x" * 100)
    real = download.urlopen

    def broken(request, timeout):
        answer = real(request, timeout=timeout)

        def read(size: int) -> bytes:
            raise error

        answer.read = read
        return answer

    monkeypatch.setattr(download, "urlopen", broken)
    with pytest.raises(MissingWeightsError, match=r"\(ConnectionError: the connection broke: ") as caught:
        fetch((tmp_path / "net.pth").as_uri())
    assert str(error) + ")" in str(caught.value), "not as an error of the file"
    assert list(cache.iterdir()) == []


def test_a_full_disk_names_the_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.pth").write_bytes(b"x" * 100)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(MissingWeightsError, match=r"No space left on device: '.*net\.pth'"):
        fetch((tmp_path / "net.pth").as_uri())
    assert list(cache.iterdir()) == []


def test_locating_distinguishes_files_from_names(tmp_path: Path) -> None:
    file = tmp_path / "own.pth"
    file.write_bytes(b"x")
    named = {"IMAGENET1K_V1": "https://example.invalid/net.pth"}
    assert locate(str(file), named) == locate(file, named) == file
    with pytest.raises(ValueError, match=r"'IMAGENET1K_V1', found 'IMAGENET_V1' \(did you mean"):
        locate("IMAGENET_V1", named)
    for missing in ("other.pth", "folder/other", Path("other")):
        with pytest.raises(MissingWeightsError, match=r"no file .*other"):
            locate(missing, named)


def test_a_model_folder_stands_for_its_file(tmp_path: Path) -> None:
    file = tmp_path / "model" / "weights.safetensors"
    file.parent.mkdir()
    save_file(network().state_dict(), file)
    assert existing_file(file.parent, ()) == locate(str(file.parent), {"DEFAULT": "https://example.invalid"}) == file
    with pytest.raises(MissingWeightsError, match="expected a file or a model folder, found no file"):
        existing_file(tmp_path / "other" / "model", ())


def test_a_part_is_found_under_the_one_prefix_that_fits() -> None:
    state = network().state_dict()
    within = {f"student.net.{k}": v for k, v in state.items()} | {"student.other.weight": torch.zeros(1)}
    assert of_module(network(), state, "a") is state
    found = of_module(network(), within, "a")
    assert found.keys() == state.keys()
    fill(network(), found, "a")
    uncounted = {k: v for k, v in within.items() if "num_batches" not in k}
    assert len(of_module(network(), uncounted, "a")) == len(state) - 1


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    state = {f"student.net.{k}": v for k, v in network().state_dict().items()}
    del state["student.net.head.bias"]
    assert of_module(network(), state, "a") is state
    with pytest.raises(UnreadableWeightsError, match=r"a: .* missing: expected 'body.0.weight'.*found 'student"):
        fill(network(), of_module(network(), state, "a"), "a")
    assert of_module(nn.ReLU(), state, "a") is state


def test_several_parts_that_fit_are_named() -> None:
    state = network().state_dict()
    twice = {f"{part}.{k}": v for part in ("teacher", "student") for k, v in state.items()}
    with pytest.raises(UnreadableWeightsError, match=r"a: expected .* one network.*'teacher\.', 'student\.'"):
        of_module(network(), twice, "a")
