"""What `extract` is asked for: photos below a folder or of a list with boxes, and how to describe them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import Box, ImageRequest
from cnnimretrieval.descriptors.windows import MOST_ALONG, RegionConfig
from cnnimretrieval.evaluation.benchmark import Benchmark
from cnnimretrieval.evaluation.datasets import LAYOUTS, read_benchmark, read_test_set
from cnnimretrieval.evaluation.groundtruth import judged_benchmark
from cnnimretrieval.local.pyramid import PyramidConfig
from cnnimretrieval.networks.network import NetworkConfig
from experiments.commands import options
from experiments.commands.spreadsheet import Row, read_rows
from experiments.exit_codes import UsageFault
from experiments.settings.errors import did_you_mean
from experiments.settings.protocol import Protocol, with_override
from groundwork.folder import list_files, reasons_by_name, usable_names


def extraction(scales: str | None, image_size: int | None) -> Callable[[NetworkConfig], ExtractConfig]:
    """How to describe with a network, from --scales and --image-size; what is None is as it is meant for.

    The options are checked here, before there is a network.

    Raises:
        UsageFault: a value out of range.

    """
    values: dict[str, Any] = {}
    if scales is not None:
        values["scales"] = options.numbers(scales, "--scales")
    if image_size is not None:
        values["image_size"] = image_size
    given = {"scales": f"--scales {scales}", "image_size": f"--image-size {image_size}"}
    checked = Protocol(source="extract", values=values, overrides=given).resolve(ExtractConfig)
    factors = None if scales is None else checked.scales
    return partial(ExtractConfig.meant_for, image_size=image_size, scales=factors)


def regions(text: str | None) -> RegionConfig | None:
    """The windows of --regions N[,N...]; None for none.

    Raises:
        UsageFault: other than different numbers in range.

    """
    if text is None:
        return None
    try:
        return RegionConfig(grids=tuple(map(int, text.split(","))))
    except ValueError as error:
        raise UsageFault(
            f"--regions: expected different numbers from 2 to {MOST_ALONG}, got '{text}'; write 2 or 2,3"
        ) from error


def pyramid(settings: Sequence[str], *, asked: bool) -> PyramidConfig:
    """Which local features are kept, from the options --local-set; `asked` says whether any are.

    Raises:
        UsageFault: an unknown key, a value out of range, or settings of what is not asked for.

    """
    if settings and not asked:
        raise UsageFault(f"--local-set: expected it with --local, got {settings[0]} alone; add --local")
    given = Protocol(source="extract", values={})
    for setting in settings:
        given = with_override(given, setting, "--local-set", "number=500")
    return given.resolve(PyramidConfig)


def all_below(photos: Path, leave_out: Path | None = None) -> tuple[list[ImageRequest], dict[str, str]]:
    """Every file below `photos`, whatever it is called, in order of name; names and reasons of what is none.

    What lies below `leave_out` is not seen.
    """
    files = list_files(photos, leave_out)
    return [ImageRequest(path=photos / name) for name in usable_names(files)], reasons_by_name(files)


def judged(benchmark: str, data: Path) -> Benchmark:
    """A published benchmark by its name, or the one of a file of judged photos, all below `data`.

    A .pkl is read as the reference toolbox keeps a test set, any other file as JSON.

    Raises:
        UsageFault: an unknown name, no such file, or one of another form or of other photos.

    """
    path = Path(benchmark)
    if benchmark not in LAYOUTS and path.suffix not in (".json", ".pkl") and not path.is_file():
        raise UsageFault(
            f"BENCHMARK: expected {', '.join(LAYOUTS)}, a JSON file or a toolbox's .pkl, got '{benchmark}'; "
            f"{did_you_mean(benchmark, LAYOUTS)}"
        )
    try:
        if benchmark in LAYOUTS:
            return read_benchmark(benchmark, data)
        options.file(path, "BENCHMARK")
        if path.suffix == ".pkl":
            return read_test_set(path, data)
        return judged_benchmark(path, data, usable_names(list_files(data)))
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, UsageFault) else UsageFault(str(error)) from error


def listed(photos: Path, table: Path) -> list[ImageRequest]:
    """The rows `name` or `name,x1,y1,x2,y2` of a table; names lie below `photos`, boxes are in upright px.

    Spreadsheets save tables with semicolons or tabs, decimal commas and byte order marks: all are read.

    Raises:
        UsageFault: a row of another form, named by its line.

    """
    return list(_requests(photos, table.name, read_rows(table, "name", columns=5)))


def _requests(photos: Path, table: str, rows: Iterable[Row]) -> Iterator[ImageRequest]:
    for line, cells in rows:
        where = f"{table} line {line}"
        if len(cells) not in (1, 5) or not cells[0]:
            raise UsageFault(
                f"{where}: expected name or name,x1,y1,x2,y2, got '{','.join(cells)}'; correct it"
            )
        if Path(cells[0]).is_absolute() or ".." in Path(cells[0]).parts:
            raise UsageFault(f"{where}: expected a path below PHOTOS, got '{cells[0]}'; leave out the folder")
        if "\0" in cells[0]:
            raise UsageFault(f"{where}: expected the name of a photo, got {cells[0]!r}; correct it")
        yield ImageRequest(path=photos / cells[0], box=_box(cells[1:], where))


def _box(cells: Sequence[str], where: str) -> Box | None:
    if not any(cells):
        return None
    return options.box(",".join(cells), where)
