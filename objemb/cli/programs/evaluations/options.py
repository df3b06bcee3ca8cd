"""The command line of an evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from objemb.cli.options import check_whitening
from objemb.cli.program import Listed
from objemb.devices import PRECISIONS, find_device, find_precision
from objemb.evaluation.ablation import SOURCES
from objemb.evaluation.projector import MAX_VECTORS
from objemb.evaluation.retrieval_task import LEVELS
from objemb.models.base import CROPS, QUERY_BOXES, WHOLE


def parse(argv: Sequence[str], description: str) -> argparse.Namespace:
    """Parse the command line. Arguments that contradict each other raise ``ValueError``."""
    parser = argparse.ArgumentParser(prog="objemb evaluate", description=description)
    parser.add_argument("arguments", nargs="*", metavar="METHOD|KEY=VALUE", help="configs, model folders, overrides")
    parser.add_argument("--methods", metavar="A,B", help="further methods, separated by commas")
    _add_sets(parser.add_argument_group("sets and queries"))
    _add_description(parser.add_argument_group("description and ranking"))
    _add_fitting(parser.add_argument_group("fitting before the evaluation"))
    _add_outputs(parser.add_argument_group("measurements and output"))
    args = parser.parse_intermixed_args(argv)
    _check(args)
    return args


def _add_sets(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--set", action="append", default=[], type=Path, metavar="JSON", help="an evaluation set: images and queries"
    )
    group.add_argument(
        "--dataset", "--datasets", metavar="A,B", type=_words, default=[], help="benchmarks under --root"
    )
    group.add_argument("--root", type=Path, metavar="DIR", help="folder of the benchmark; several are in DIR/NAME")
    group.add_argument("--distractors", type=Path, metavar="DIR", help="further photos for the database")
    group.add_argument("--level", choices=LEVELS, default="image", help="search for images or objects (default: image)")
    group.add_argument(
        "--queries", action="append", default=[], metavar="KEY=VALUE", help="use only queries with this value"
    )
    other = group.add_mutually_exclusive_group()
    other.add_argument("--all-objects-as-queries", action="store_true", help="search for every object of the set")
    other.add_argument(
        "--photos-as-queries",
        action="store_true",
        help="search with the whole photos of the queries, without boxes, for any object in them",
    )


def _add_description(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--boxes", type=Path, metavar="COCO", help="boxes of the database photos, at image level")
    group.add_argument(
        "--crop",
        choices=CROPS,
        help="how a query box is described, and at object level every box (default: as the set says)",
    )
    group.add_argument(
        "--query-boxes",
        choices=QUERY_BOXES,
        default=WHOLE,
        help="regions of a query without a box: its whole photo (the default), the boxes of the method's detector, or "
        "both",
    )
    group.add_argument(
        "--rerank",
        action="append",
        default=[],
        metavar="NAME,KEY=VALUE",
        help="re-rankers, in order, instead of the method's own",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, gpu, cuda, cuda:1, mps (default: auto)")
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="precision of the networks (default: auto)"
    )
    group.add_argument("--runtime", help="what runs exported models (default: the first that is installed)")
    group.add_argument("--workers", type=int, default=2, help="decoding threads (default: 2)")
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="read descriptors from this folder and store them there"
    )


def _add_fitting(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--fit-on",
        nargs="+",
        action=Listed,
        type=Path,
        default=[],
        metavar="PHOTOS",
        help="fit codebooks and bases on these",
    )
    group.add_argument(
        "--whiten-on",
        nargs="+",
        action=Listed,
        type=Path,
        default=[],
        metavar="PHOTOS",
        help="fit a PCA whitening on these",
    )
    group.add_argument(
        "--whiten-pairs", type=Path, metavar="SET", help="fit a whitening on matching pairs: a set or a folder"
    )
    group.add_argument("--whiten-boxes", type=Path, metavar="COCO", help="boxes of the photos to fit on")
    group.add_argument("--whiten-dim", type=int, help="dimensions to keep (default: all)")
    group.add_argument(
        "--whiten-power", type=float, help="0.5 whitens by PCA, 0 only rotates (default: 0.5; for pairs 0)"
    )
    group.add_argument(
        "--whiten-ridge", type=float, default=0.0, help="regularisation for few pairs, such as 1 (default: 0)"
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything that was measured")
    group.add_argument("--markdown", type=Path, metavar="MD", help="write the tables")
    group.add_argument("--report", type=Path, metavar="DIR", help="write both, with plots and failure browsers")
    group.add_argument("--failures", type=_count, default=24, help="worst queries to show, 0 for none (default: 24)")
    group.add_argument("--hits", type=_count, default=7, help="images to show for each (default: 7)")
    group.add_argument(
        "--box-sources",
        type=_sources,
        default=[],
        metavar="A,B",
        help=f"measure each method with boxes from some of: {','.join(SOURCES)}",
    )
    group.add_argument(
        "--reference",
        metavar="METHOD",
        help="one of the methods, by name or position; show the others' scores as shares of its scores",
    )
    group.add_argument(
        "--regions",
        type=_counts,
        default=[],
        metavar="N,M",
        help="measure each method with at most N, M regions per photo",
    )
    group.add_argument(
        "--cost-photos", type=_count, default=4, help="photos to measure the time on (default: 4; 0: none)"
    )
    group.add_argument("--projector", type=Path, metavar="DIR", help="write files for tensorboard --logdir DIR")
    group.add_argument("--projector-vectors", type=int, default=1000, help="most vectors per method (default: 1000)")


def _check(args: argparse.Namespace) -> None:
    args.exported_precision = args.precision
    args.device = find_device(args.device)
    args.precision = find_precision(args.precision, args.device)
    if not args.set and not args.dataset:
        raise ValueError("--set or --dataset: expected at least one, found neither")
    if bool(args.dataset) != (args.root is not None):
        raise ValueError("--dataset, --root: expected both or none, found one alone")
    check_whitening(args.whiten_on, args.whiten_pairs, args.whiten_dim, args.whiten_ridge)
    if args.box_sources and args.level != "image":
        raise ValueError("--box-sources: expected --level image, found object, where boxes are given by the set")
    if not 1 <= args.projector_vectors <= MAX_VECTORS:
        raise ValueError(f"--projector-vectors: expected 1 to {MAX_VECTORS}, found {args.projector_vectors}")


def _words(text: str) -> list[str]:
    words = [word for word in text.split(",") if word]
    if len(set(words)) != len(words) or not words:
        raise argparse.ArgumentTypeError(f"expected different names separated by commas, found {text!r}")
    return words


def _sources(text: str) -> list[str]:
    words = _words(text)
    for word in words:
        if word not in SOURCES:
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(SOURCES)}, found {word!r}")
    return words


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text!r}")
    return int(text)


def _counts(text: str) -> list[int]:
    return sorted({_count(word) for word in _words(text)})
