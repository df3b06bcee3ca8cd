"""The `objemb` command line. Nothing heavy is imported here, so that `objemb --help` answers at once."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from objemb.cli import detect, doctor, index, maintenance, model, search
from objemb.cli.errors import Settings, one_line_errors
from objemb.cli.logs import configure
from objemb.version import __version__

app = typer.Typer(
    name="objemb",
    help="Finds the object, not the picture: instance search with detector-based object embeddings.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 internal error or an unhealthy doctor, 2 usage or input error, "
    "3 done, but images were skipped, or boxes left out or read otherwise than written, "
    "4 artefacts that do not match or are damaged, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="Say what is done; -vv in detail.", show_default=False)
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors; no progress.")] = False,
    log_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all messages and the progress there, too.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    Settings.debug = debug
    with one_line_errors():
        configure(verbose, quiet=quiet, file=log_file)


app.command("index")(index.index)
app.command("search")(search.search)
app.command("detect")(detect.detect)
app.add_typer(model.app, name="model")
app.command("info")(maintenance.info)
app.command("verify")(maintenance.verify)
app.command("delete")(maintenance.delete)
app.command("compact")(maintenance.compact)
app.command("merge")(maintenance.merge)
app.command("doctor")(doctor.doctor)

#: Programs with a command line of their own: what is said after their name is read by them. The function of
#: `objemb.cli.programs`, whose modules import torch, and what `objemb --help` says of it.
PROGRAMS = {
    "train": ("train:main", "Train a backbone, a detector or a student, as a config says, into a folder."),
    "evaluate": ("evaluate:run", "Measure methods and models on sets and benchmarks, in one table."),
    "evaluate-features": ("evaluate_features:main", "Measure features that were made elsewhere."),
    "prepare-data": ("prepare_data:main", "Draw scenes, paste products onto photos, convert a benchmark."),
    "factorize": ("factorize:main", "Find an object in photos by deep feature factorization, and draw heat maps."),
    "analysis": ("analysis:main", "Ask the questions of the founding paper of two networks."),
    "demo": ("demo:run", "From nothing to a page: data, training, search, figures."),
}
#: Those that go on where they were interrupted.
GO_ON = ("train", "demo")


def _add_program(name: str, entry: str, text: str) -> None:
    def program(arguments: Annotated[list[str] | None, typer.Argument(metavar="...")] = None) -> None:
        module, _, function = entry.partition(":")
        left = "interrupted; the same command goes on" if name in GO_ON else "interrupted"
        with one_line_errors(f"objemb {name}", left):
            getattr(importlib.import_module(f"objemb.cli.programs.{module}"), function)(arguments or [])

    # what looks like an option here is one of the program, --help among them
    own = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
    app.command(name, help=text, context_settings=own, add_help_option=False)(program)


for _name, (_entry, _text) in PROGRAMS.items():
    _add_program(_name, _entry, _text)
