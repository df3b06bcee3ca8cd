"""`objemb serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from objemb.cli.errors import guarded
from objemb.cli.options import MAX_PIXELS, Device, IndexPath, Precision, Runtime, Threads, plugins
from objemb.cli.output import note, note_reduced, note_untrained

MEBIBYTE = 2**20


@guarded
def serve(
    index: IndexPath,
    *,
    model: Annotated[Path | None, typer.Option(help="A model folder.  [the one with which the index was made]")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that other machines reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    token: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the token of requests; or the variable OBJEMB_TOKEN."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let everyone search who reaches an address other than loopback.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name under which a proxy reaches a service on loopback; repeatable."),
    ] = None,
    writable: Annotated[bool, typer.Option("--writable", help="Let requests add, replace and delete images.")] = False,
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="ROOT",
            help="Folder in which the photos lie: no others are opened, and uploaded ones are kept in it.  "
            "[where they were indexed]",
        ),
    ] = None,
    rerank: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            autocompletion=plugins("rerank"),
            help="A re-ranker that requests may ask for; repeatable.  [none but that of the model]",
        ),
    ] = None,
    decoders: Annotated[
        int, typer.Option(min=1, help="Processes that decode photos, and threads that describe them.")
    ] = 2,
    queue: Annotated[int, typer.Option(min=1, help="Requests at a time; further ones are told to come again.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Queries that share a pass over the index at most.")] = 16,
    passes: Annotated[
        int, typer.Option(min=1, help="Queries that share a forward pass at most, where no answer changes.")
    ] = 8,
    fill_passes: Annotated[
        bool,
        typer.Option(
            "--fill-passes",
            help="Make all these passes equally large, for accelerators, where kernels depend on that: answers may "
            "differ from those of the command line by rounding.",
        ),
    ] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Do not open larger photos.")] = MAX_PIXELS,
    max_body: Annotated[int, typer.Option(min=1, metavar="MIB", help="Size of a request in MiB at most.")] = 32,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
) -> None:
    """Serve an index over HTTP, with a page on which to draw a box and see where else the object is.

    Ctrl-C finishes what has been accepted, and ends the service.
    """
    from objemb.threads import compute_with

    if threads is not None:
        compute_with(threads)
    from objemb.config import parse_part
    from objemb.serve.current import Opening
    from objemb.serve.limits import Limits
    from objemb.serve.running import bound, needed_token, serve, served_hosts
    from objemb.serve.service import Options, Service

    # everything is checked before a model is loaded
    needed = needed_token(host, token, no_token=no_token)
    if photos is not None and not photos.is_dir():
        raise FileNotFoundError(f"--photos: expected a folder, found none at {photos}")
    for step in rerank or ():
        parse_part("rerank", step)
    limits = Limits(pixels=max_pixels, body_bytes=max_body * MEBIBYTE, queue=queue, batch=batch, passes=passes)
    with bound(host, port) as opened:
        opening = Opening(index, model, device, precision, runtime, threads, max_pixels)
        service = Service(opening, Options(limits, photos, writable, rerank or (), decoders, fill_passes))
        served = service.current.retrieval
        note_untrained(served.model)
        note_reduced(served.model)
        if no_token:
            note(f"note: --no-token: everyone who reaches {host} can search" + (" and write" if writable else ""))
        where = f"http://{f'[{host}]' if ':' in host else host}:{opened.getsockname()[1]}"
        images = len(served.index)
        serve(
            service,
            opened,
            token=needed,
            hosts=served_hosts(host, allow_host or (), needed),
            on_start=lambda: note(f"{where}: serving {images} photos; Ctrl-C ends it"),
        )
