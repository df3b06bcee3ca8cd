"""The `objemb` command line. Nothing heavy is imported here, so that `objemb --help` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from objemb.cli import compact, delete, detect, doctor, index, info, merge, model, search, verify
from objemb.cli.errors import Settings
from objemb.version import __version__

app = typer.Typer(
    name="objemb",
    help="Finds the object, not the picture: instance search with detector-based object embeddings.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 internal error or an unhealthy doctor, 2 usage or input error, "
    "3 some images were skipped, 4 artefacts that do not match or are damaged, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    Settings.debug = debug


app.command("index")(index.index)
app.command("search")(search.search)
app.command("detect")(detect.detect)
app.add_typer(model.app, name="model")
app.command("info")(info.info)
app.command("verify")(verify.verify)
app.command("delete")(delete.delete)
app.command("compact")(compact.compact)
app.command("merge")(merge.merge)
app.command("doctor")(doctor.doctor)
