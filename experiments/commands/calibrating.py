"""The command that learns what scores of a network are worth."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import options
from groundwork.lock import hold


def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `train` wrote.")],
    pairs: Annotated[
        Path, typer.Argument(metavar="WORK/pairs", help="Folder that `mine` wrote, of any collection.")
    ],
    device: options.Device = "auto",
    workers: options.Workers = None,
) -> None:
    """Learn from held-out places how sure results are, as `train` does, into MODEL/calibration.json."""
    options.folder(model, "MODEL")
    options.folder(pairs, "WORK/pairs", "mine first")
    from cnnimretrieval.evaluation.calibrate import MIN_PLACES
    from cnnimretrieval.training.proof.calibrating import described_run, write_calibration
    from experiments import machine

    on = machine.device(device)
    network = machine.load_network(str(model), None)
    with hold(model):
        found = described_run(pairs, model, network, on, options.num_workers(workers))
        calibration = write_calibration(found, network, model)
    if calibration is None:
        raise ValueError(
            f"calibration: expected held-out queries of at least {MIN_PLACES} places to choose by in {pairs} "
            "and a network for one scale, got others; mine a larger collection"
        )
    print(
        f"{calibration.queries:,} queries of {len(calibration.curves):,} places\n{model / 'calibration.json'}"
    )
