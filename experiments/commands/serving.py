"""The command that serves the search page."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import options
from experiments.exit_codes import UsageFault

_OPEN_TO_OTHERS = (
    "{host} can be reached from other machines: whoever reaches it sees every photo of the collection and "
    "may search with photos of their own; there is no password, and nothing is encrypted. Leave --host out "
    "to serve this machine alone."
)


def serve(
    model: options.Model,
    database: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `extract` wrote.")],
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where to listen; others than this machine can reach 0.0.0.0."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="0 takes any that is free.")
    ] = 8000,
    photos: Annotated[
        Path | None,
        typer.Option(metavar="PHOTOS", help="Where the photos are now [default: where they were extracted]."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="WORK", help="Run whose places are shown [default: that around MODEL, if there is one]."
        ),
    ] = None,
    whitening_from: options.WhiteningFrom = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
) -> None:
    """Serve a page, and a JSON interface, to search an extracted folder with photos."""
    options.folder(database, "DIR", "extract the photos first")
    for path, name in ((photos, "--photos"), (work, "--work")):
        if path is not None:
            options.folder(path, name)
    if work is not None:
        options.file(work / "sfm" / "images.parquet", "--work")
    try:
        from experiments.web import app, assembly, server
    except ModuleNotFoundError as error:
        raise UsageFault(
            f"serve: expected the packages of the web page, got no {error.name}; "
            "pip install 'cnnimretrieval[web]'"
        ) from error
    import cnnimretrieval
    from experiments import machine

    listening = server.listen(host, port)
    local = server.is_loopback(host)
    serving = assembly.Serving(
        folder=database, photos=photos, work=work or assembly.run_of(model), device=machine.device(device)
    )
    with (
        listening,
        assembly.assembled(machine.load_network(model, weights, whitening_from), model, serving) as site,
    ):
        if not local:
            print(f"serve: {_OPEN_TO_OTHERS.format(host=host)}", file=sys.stderr)
        hosts = app.LOOPBACK | {host.lower()} if local else None
        application = app.application(site, cnnimretrieval.__version__, hosts)
        print(
            f"{len(site.served.shown):,} photos at {server.address_of(listening, host)} until Ctrl-C",
            flush=True,
        )
        try:
            server.server(application).run(sockets=[listening])
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
