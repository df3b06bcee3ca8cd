"""One cluster of two nodes for all that needs Ray, since it takes long to start."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from objemb.index.store import Index
from objemb.search.block_stream import BlockFolder
from objemb.search.blocks import Block
from objemb.search.executors.base import executor_of
from objemb.search.executors.ray import Ray
from tests.cli.conftest import Run, draw, parsed
from tests.contracts.test_executors import check


def test_where_a_cluster_is() -> None:
    assert executor_of("ray").__dict__ == Ray().__dict__
    assert Ray.at("head:6379").address == "head:6379"


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[ray\]'"):
        list(Ray().map(lambda number: bytes, [b"a"], threads=1, accelerated=False))


@pytest.mark.ray
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_that_loses_a_node(
    run: Run, model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):  # no reports; on loopback only
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv(
        "RAY_TMPDIR", f"/tmp/ray-{tmp_path_factory.getbasetemp().name}"[:40]
    )  # paths of sockets are short

    import ray
    from ray.cluster_utils import Cluster

    photos, index = tmp_path / "photos", tmp_path / "index"
    photos.mkdir()
    for number in range(24):
        draw(photos / f"{number}.png", number)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sizes = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**sizes, "include_dashboard": False})
    try:
        second = cluster.add_node(**sizes)
        publish, published = BlockFolder.publish, []

        def publish_and_kill(self: BlockFolder, block: Block) -> None:
            publish(self, block)
            published.append(block.name)
            if len(published) == 4:
                cluster.remove_node(second, allow_graceful=False)

        monkeypatch.setattr(BlockFolder, "publish", publish_and_kill)
        command = (
            "index",
            photos,
            "-o",
            index,
            "--model",
            model,
            "--json",
            "--on",
            f"ray://{cluster.address}",
            "--block-size",
            2,
        )
        report = parsed(run(*command, code=3))
        assert (report["added"], report["skipped"], report["images"]) == (24, 1, 24)
        assert len(set(published)) == len(published) >= 13  # a block that was lost with the node comes in halves
        assert sorted(Index.open(index).stamps()) == sorted(f"{n}.png" for n in range(24))
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")  # once for all that follows
        monkeypatch.setattr("objemb.search.executors.ray.TASK_RETRIES", 1)  # a worker takes seconds to start
        check(Ray(), tmp_path)
    finally:
        ray.shutdown()
        cluster.shutdown()
