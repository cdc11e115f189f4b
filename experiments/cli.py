"""The command line: which commands there are, and how their errors reach a person."""

import logging
import sys
import traceback
from collections.abc import Sequence

import typer

from experiments.commands import (
    calibrating,
    doctor,
    download,
    exchange,
    indexing,
    looking,
    matching,
    retrieval,
    run,
    serving,
    stages,
)
from experiments.exit_codes import INTERRUPTED, NAME, exit_code, lines_of
from groundwork.names import printable

# Commands import what they call when they are called: --help and reconstruct must not wait for torch.
_ANYWHERE = ("--debug", "--quiet")
app = typer.Typer(
    name=NAME,
    help="From a folder of unsorted photos to an image-retrieval network, with no human label. Everywhere: "
    "--quiet leaves out progress, --debug shows where an error came from.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted.

    Errors are one line on stderr; `--debug` anywhere shows the traceback before it, `--quiet` anywhere leaves
    out progress and what stages tell, not warnings.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word not in _ANYWHERE]
    _log_to_stderr(logging.WARNING if "--quiet" in given else logging.INFO)
    try:
        code = app(words or ["--help"], prog_name=NAME, standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in given:
            traceback.print_exc()
        code = _say(error)
    if code == INTERRUPTED:
        return _say(KeyboardInterrupt())
    return code or 0


class _Printable(logging.Formatter):
    """The message alone; names of files in it cannot start a line or command the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The base class calls this for all but a traceback."""
        return printable(record.message)


def _log_to_stderr(level: int) -> None:
    """Show what our own packages tell about their progress, and only warnings of others."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("groundwork", "sfm", "pairs", "cnnimretrieval", "experiments"):
        logging.getLogger(package).setLevel(level)


def _say(error: BaseException) -> int:
    for line in lines_of(error):
        print(f"{NAME}: {line}", file=sys.stderr)
    return exit_code(error)


for command in (
    run.run,
    stages.reconstruct,
    stages.mine,
    exchange.export,
    stages.train,
    calibrating.calibrate,
    retrieval.extract,
    indexing.index,
    retrieval.search,
    serving.serve,
    retrieval.evaluate,
    matching.match,
    download.download,
    looking.duplicates,
    looking.places,
    looking.compare,
    stages.report,
    doctor.doctor,
    run.demo,
):
    app.command()(command)


if __name__ == "__main__":
    sys.exit(main())
