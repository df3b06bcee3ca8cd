"""The command line of an evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from objemb.cli.options import check_whitening
from objemb.cli.program import Listed
from objemb.devices import PRECISIONS, find_device, find_precision
from objemb.evaluation.ablation import SOURCES
from objemb.evaluation.projector import MOST
from objemb.evaluation.retrieval_task import LEVELS
from objemb.models.base import CROPS, QUERY_BOXES, WHOLE


def parse(argv: Sequence[str], description: str) -> argparse.Namespace:
    """The arguments; those that do not go together raise ``ValueError``."""
    parser = argparse.ArgumentParser(prog="objemb evaluate", description=description)
    parser.add_argument("arguments", nargs="*", metavar="METHOD|KEY=VALUE", help="configs, model folders, overrides")
    parser.add_argument("--methods", metavar="A,B", help="further methods, with commas between")
    _add_sets(parser.add_argument_group("what is searched in what"))
    _add_description(parser.add_argument_group("how it is described and ranked"))
    _add_fitting(parser.add_argument_group("what is learned before"))
    _add_outputs(parser.add_argument_group("what is measured and written"))
    args = parser.parse_intermixed_args(argv)
    _check(args)
    return args


def _add_sets(group: Any) -> None:
    group.add_argument("--set", action="append", default=[], type=Path, metavar="JSON", help="images and queries")
    group.add_argument(
        "--dataset", "--datasets", metavar="A,B", type=_words, default=[], help="benchmarks under --root"
    )
    group.add_argument("--root", type=Path, metavar="DIR", help="where the benchmark lies; of several, in DIR/NAME")
    group.add_argument("--distractors", type=Path, metavar="DIR", help="further photos for the database")
    group.add_argument("--level", choices=LEVELS, default="image", help="what is searched (default: image)")
    group.add_argument("--queries", action="append", default=[], metavar="KEY=VALUE", help="only these queries")
    other = group.add_mutually_exclusive_group()
    other.add_argument("--all-objects-as-queries", action="store_true", help="search for every object of the set")
    other.add_argument(
        "--photos-as-queries",
        action="store_true",
        help="search with the photos of the queries, without boxes, for anything that they show",
    )


def _add_description(group: Any) -> None:
    group.add_argument("--boxes", type=Path, metavar="COCO", help="boxes of the database photos, at image level")
    group.add_argument(
        "--crop", choices=CROPS, help="how a query box is seen, at object level every box (default: as the set says)"
    )
    group.add_argument(
        "--query-boxes",
        choices=QUERY_BOXES,
        default=WHOLE,
        help="what a query without a box is searched with: its whole photo (the default), what the method's detector "
        "finds in it, or both",
    )
    group.add_argument(
        "--rerank", action="append", default=[], metavar="NAME,KEY=VALUE", help="instead of the method's own; in order"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, gpu, cuda, cuda:1, mps (default: auto)")
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the networks (default: auto)")
    group.add_argument("--workers", type=int, default=2, help="decoding threads (default: 2)")
    group.add_argument("--cache", type=Path, metavar="DIR", help="keep descriptors here, and take them from here")


def _add_fitting(group: Any) -> None:
    group.add_argument(
        "--fit-on", nargs="+", action=Listed, type=Path, default=[], metavar="PHOTOS", help="codebooks and bases"
    )
    group.add_argument(
        "--whiten-on", nargs="+", action=Listed, type=Path, default=[], metavar="PHOTOS", help="and a PCA whitening"
    )
    group.add_argument("--whiten-pairs", type=Path, metavar="SET", help="or a whitening from pairs: a set, or a folder")
    group.add_argument("--whiten-boxes", type=Path, metavar="COCO", help="boxes of the photos to fit on")
    group.add_argument("--whiten-dim", type=int, help="dimensions to keep (default: all)")
    group.add_argument(
        "--whiten-power", type=float, help="0.5 whitens by PCA, 0 only rotates (default: 0.5; of pairs 0)"
    )
    group.add_argument(
        "--whiten-ridge", type=float, default=0.0, help="of pairs: for few of them, such as 1 (default: 0)"
    )


def _add_outputs(group: Any) -> None:
    group.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything that was measured")
    group.add_argument("--markdown", type=Path, metavar="MD", help="write the tables")
    group.add_argument("--report", type=Path, metavar="DIR", help="both, with pictures and failure browsers")
    group.add_argument("--failures", type=_count, default=24, help="worst queries to show, 0 for none (default: 24)")
    group.add_argument("--hits", type=_count, default=7, help="images to show of each (default: 7)")
    group.add_argument(
        "--box-sources",
        type=_sources,
        default=[],
        metavar="A,B",
        help=f"each method with boxes of: {','.join(SOURCES)}",
    )
    group.add_argument(
        "--reference",
        metavar="METHOD",
        help="one of the methods, by name or place: what the others keep of its figures",
    )
    group.add_argument("--regions", type=_counts, default=[], metavar="N,M", help="each method at these box counts")
    group.add_argument("--cost-photos", type=_count, default=4, help="photos to take the time on (default: 4; 0: none)")
    group.add_argument("--projector", type=Path, metavar="DIR", help="write files for tensorboard --logdir DIR")
    group.add_argument("--projector-vectors", type=int, default=1000, help="maximum per method (default: 1000)")


def _check(args: argparse.Namespace) -> None:
    args.device = find_device(args.device)
    args.precision = find_precision(args.precision, args.device)
    if not args.set and not args.dataset:
        raise ValueError("--set or --dataset: expected what to measure on, found neither")
    if bool(args.dataset) != (args.root is not None):
        raise ValueError("--dataset, --root: expected both or none, found one alone")
    check_whitening(args.whiten_on, args.whiten_pairs, args.whiten_dim, args.whiten_ridge)
    if args.box_sources and args.level != "image":
        raise ValueError("--box-sources: expected the image level, where boxes are looked for, found object")
    if not 1 <= args.projector_vectors <= MOST:
        raise ValueError(f"--projector-vectors: expected 1 to {MOST}, found {args.projector_vectors}")


def _words(text: str) -> list[str]:
    words = [word for word in text.split(",") if word]
    if len(set(words)) != len(words) or not words:
        raise argparse.ArgumentTypeError(f"expected different names with commas between, found {text!r}")
    return words


def _sources(text: str) -> list[str]:
    words = _words(text)
    for word in words:
        if word not in SOURCES:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(SOURCES)}, found {word!r}")
    return words


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text!r}")
    return int(text)


def _counts(text: str) -> list[int]:
    return sorted({_count(word) for word in _words(text)})
