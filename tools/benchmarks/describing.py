"""Describing in blocks: processes of one machine against Ray on one and on two nodes, and a node that is killed.

    python tools/benchmarks/describing.py --photos FOLDER --weights mobilenet_v2.pth [--count 5000] [--side 96]
        [--ways processes=1 processes=2 ray=1 ray=2 killed]

Photos are cut out of those in FOLDER at random places (seed 0), 160 x 120 pixels; the model is MobileNetV2 with GeM
pooling. Nodes are processes of this machine with one core each. For every way it prints the seconds of the whole run,
those from the first block to the last one, which leave out the start of processes and models, and whether every photo
is in the index once, with the vectors of the first way.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from objemb.images.sources import ImageRef, find_images
from objemb.index.store import Index
from objemb.models import build_model, load_model, save_model
from objemb.models.row_schema import row_schema
from objemb.search.block_stream import BlockFolder, Distribution
from objemb.search.blocks import Block
from objemb.search.executors.base import Executor
from objemb.search.executors.processes import Processes
from objemb.search.executors.ray import Ray
from objemb.search.indexing import Job

CROP = (160, 120)
BLOCK = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--ways", nargs="+", default=["processes=1", "processes=2", "ray=1", "ray=2", "killed"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="objemb-describing-") as temporary:
        folder = Path(temporary)
        cut(options.photos, folder / "photos", options.count)
        save_model(build_model(settings(options.weights, options.side)), folder / "model")
        first: Index | None = None
        for way in options.ways:
            facts, index = measure(way, folder, options.count)
            facts["cosine"] = 1.0 if first is None else least_cosine(first, index)
            first = first or index
            print(json.dumps({"way": way, **facts}), flush=True)


def settings(weights: Path, side: int) -> dict[str, Any]:
    backbone = {"name": "torchvision_cnn", "arch": "mobilenet_v2", "weights": str(weights)}
    extractor = {"name": "map", "size": side}
    describer = {"name": "pooled_regions", "regions": {"name": "whole_image"}, "backbone": backbone}
    return {
        "describer": {**describer, "extractor": extractor, "pooling": {"name": "gem"}},
        "aggregator": {"name": "keep"},
    }


def cut(source: Path, target: Path, count: int) -> None:
    """Write parts of photos as JPEG files."""
    target.mkdir()
    refs = [ref for ref in find_images(source) if isinstance(ref, ImageRef)]
    random = np.random.default_rng(0)
    each = -(-count // len(refs))
    for number in range(count):
        if number % each == 0:
            image = Image.open(refs[number // each].path).convert("RGB")
            image = image.resize((max(image.width // 2, CROP[0]), max(image.height // 2, CROP[1])))
        x, y = (int(random.integers(0, size - side + 1)) for size, side in zip(image.size, CROP, strict=True))
        image.crop((x, y, x + CROP[0], y + CROP[1])).save(target / f"{number:05d}.jpg", quality=85)


def measure(way: str, folder: Path, count: int) -> tuple[dict[str, Any], Index]:
    model = load_model(folder / "model")
    path = folder / way.replace("=", "-")
    index = Index.create(path, schema=row_schema(model), fingerprint=model.fingerprint)
    name, _, number = way.partition("=")
    seen: list[float] = []
    publish = BlockFolder.publish
    kills: list[Any] = []

    def timed(self: BlockFolder, block: Block) -> None:
        publish(self, block)
        seen.append(time.monotonic())
        if kills and len(seen) == count // BLOCK // 3:
            kills.pop()()

    BlockFolder.publish = timed  # type: ignore[method-assign]
    try:
        with place(name, int(number or 2)) as (executor, kill):
            kills[:] = [kill] if name == "killed" else []
            began = time.monotonic()
            on = Distribution(executor, folder / "blocks", BLOCK, "cpu", threads=1)
            report = Job(index, model, [folder / "photos"], on=on, batch_size=16, workers=1).run()
            ended = time.monotonic()
    finally:
        BlockFolder.publish = publish  # type: ignore[method-assign]
    ids = [image.id for image in index.images()]
    facts = {
        "seconds": round(ended - began, 1),
        "first_block": round(seen[0] - began, 1),
        "photos_per_second": round(count * (len(seen) - 1) / len(seen) / (seen[-1] - seen[0]), 1),
        "blocks": len(seen),
        "added": report.added,
        "skipped": report.skipped,
        "each_once": len(ids) == len(set(ids)) == count,
    }
    return facts, index


@contextmanager
def place(name: str, number: int) -> Iterator[tuple[Executor, Any]]:
    """An executor, and what kills one of its nodes."""
    if name == "processes":
        yield Processes(count=number), None
        return
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_TMPDIR=tempfile.mkdtemp())
    import ray
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        others = [cluster.add_node(**size) for _ in range(number - 1)]
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield Ray(), lambda: cluster.remove_node(others[0], allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]  # of Ray
        shutil.rmtree(os.environ.pop("RAY_TMPDIR"), ignore_errors=True)


def least_cosine(one: Index, other: Index) -> float:
    """The least cosine of a vector with that of the same photo."""
    rows = [index.dense_rows() for index in (one, other)]
    places = [np.argsort(r.images) for r in rows]
    first, second = (r.vectors[p] for r, p in zip(rows, places, strict=True))
    return round(float((first * second).sum(axis=1).min()), 6)


if __name__ == "__main__":
    main()
