"""The `objemb` command line. Nothing heavy is imported here, and a command's module only where it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from objemb.cli.errors import Settings, one_line_errors
from objemb.cli.logs import configure
from objemb.version import __version__


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "-v", "--verbose", count=True, help="Print what is being done; -vv in detail.", show_default=False
        ),
    ] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors, and no progress.")] = False,
    log_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write all messages and the progress to this file.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    Settings.debug = debug
    with one_line_errors():
        configure(verbose, quiet=quiet, file=log_file)


#: Commands in the order of `objemb --help`: the module in `objemb.cli` and its function, or its group of commands.
COMMANDS = {
    "index": "index:index",
    "search": "search:search",
    "serve": "serve:serve",
    "detect": "detect:detect",
    "model": "model:app",
    "export": "export:export",
    "info": "maintenance:info",
    "verify": "maintenance:verify",
    "delete": "maintenance:delete",
    "compact": "maintenance:compact",
    "copy": "copy:copy",
    "merge": "maintenance:merge",
    "migrate": "migrate:migrate",
    "calibrate": "maintenance:calibrate",
    "doctor": "doctor:doctor",
}

#: Programs that parse their own command lines: the function in `objemb.cli.programs`, whose modules import torch, and
#: the text of `objemb --help`.
PROGRAMS = {
    "train": ("train:main", "Train a backbone, a detector or a student from a config."),
    "evaluate": ("evaluate:run", "Evaluate methods and models on data sets and benchmarks, in one table."),
    "evaluate-features": ("evaluate_features:main", "Evaluate features that were computed elsewhere."),
    "prepare-data": ("prepare_data:main", "Render scenes, paste products onto photos, or convert a benchmark."),
    "factorize": ("factorize:main", "Localise an object in photos by deep feature factorization, and draw heat maps."),
    "analysis": ("analysis:main", "Compare two networks by the analyses of Chen, Davis and Lim (2019)."),
    "demo": ("demo:run", "Run everything from generated data to a web page: training, search, figures."),
}
#: Programs that resume where they were interrupted.
GO_ON = ("train", "demo")


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """The `objemb` command with those of its commands that are among ``words``, or with all where none is.

    A process that runs one command need not import the others: the words of its command line say which it can be.
    """
    app = typer.Typer(
        name="objemb",
        help="Finds the object, not the picture: instance search with detector-based object embeddings.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes: 0 success, 1 internal error or a failed check of doctor, 2 usage or input error, "
        "3 finished, but images were skipped, or boxes were left out or adjusted, "
        "4 files that do not match or are damaged, 130 interrupted.",
    )
    app.callback()(_options)
    names = [*COMMANDS, *PROGRAMS]
    for name in [name for name in names if name in words] or names:
        if name in PROGRAMS:
            _add_program(app, name, *PROGRAMS[name])
            continue
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(f"objemb.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _add_program(app: typer.Typer, name: str, entry: str, text: str) -> None:
    def program(arguments: Annotated[list[str] | None, typer.Argument(metavar="...")] = None) -> None:
        module, _, function = entry.partition(":")
        left = "interrupted; the same command resumes" if name in GO_ON else "interrupted"
        with one_line_errors(f"objemb {name}", left):
            getattr(importlib.import_module(f"objemb.cli.programs.{module}"), function)(arguments or [])

    # options here, including --help, are those of the program
    own = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
    app.command(name, help=text, context_settings=own, add_help_option=False)(program)
