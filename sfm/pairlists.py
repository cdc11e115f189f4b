"""Stage: lists of image pairs for other tools, as hloc reads them: two names a line, parted by a blank.

    pairs-candidates.txt    every pair that was tried
    pairs-verified.txt      every pair that is trusted, the most inliers first
    pairs-covisible.txt     each registered image with up to 20 others that see most of its 3D points,
                            as hloc's pairs_from_covisibility makes it

The format has no quotes: pairs of a photo whose name holds a blank are left out, counted and told.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from groundwork.files import atomic_path
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done
from sfm.covisibility import covisible_pairs, visibility
from sfm.model import ARRAYS, Model, load_model
from sfm.pair_table import ENDS

logger = logging.getLogger(__name__)

_VERSION = 1
# hloc's own default.
_NEIGHBOURS = 20
# Of a list, whose names are in memory at a time.
_ROWS = 65_536


def write_pair_lists(
    out: Path,
    key: str,
    names: "pd.Series[str]",
    candidates: pd.DataFrame | None,
    trusted: pd.DataFrame | None,
    model_folders: Sequence[Path],
) -> None:
    """Write the lists to `out`, unless they are there with this key.

    `names` are those of the images by id; lists without a table, as imported models have none, are not
    written.
    """
    started, key = time.perf_counter(), key_of("pair lists", _VERSION, key)
    if load_done(out, "pair lists", key):
        return
    lists: dict[str, Iterable[pd.DataFrame]] = {}
    if candidates is not None:
        lists["candidates"] = _named(candidates, np.arange(len(candidates)), names)
    if trusted is not None:
        falling = np.argsort(-trusted["inliers"].to_numpy(), kind="stable")
        lists["verified"] = _named(trusted, falling, names)
    lists["covisible"] = (most_covisible(load_model(folder / ARRAYS)) for folder in model_folders)
    paths: list[Path] = []
    facts: dict[str, int] = {}
    for kind, parts in lists.items():
        path = out / f"pairs-{kind}.txt"
        written, left_out = write_pair_list(path, parts)
        paths.append(path)
        facts |= {kind: written, f"{kind} left out": left_out}
    mark_done(out, "pair lists", key, seconds=time.perf_counter() - started, facts=facts, outputs=paths)


def most_covisible(model: Model, neighbours: int = _NEIGHBOURS) -> pd.DataFrame:
    """`name1, name2` of each image with the others that share most points with it, the most first."""
    pairs = covisible_pairs(visibility(model))
    one, two = np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first])
    shared = np.tile(pairs.shared_points, 2)
    falling = np.lexsort((two, -shared, one))
    one, two = one[falling], two[falling]
    kept = np.arange(len(one)) - np.searchsorted(one, one) < neighbours
    names = np.array(model.names, dtype=object)
    return pd.DataFrame({"name1": names[one[kept]], "name2": names[two[kept]]})


def _named(
    pairs: pd.DataFrame, order: Int[np.ndarray, " p"], names: "pd.Series[str]"
) -> Iterator[pd.DataFrame]:
    """The names of some pairs, in this order, some at a time."""
    one, two = (pairs[column].to_numpy() for column in ENDS)
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        columns = {"name1": names.array.take(one[rows] - 1), "name2": names.array.take(two[rows] - 1)}
        yield pd.DataFrame(columns)


def write_pair_list(path: Path, parts: Iterable[pd.DataFrame]) -> tuple[int, int]:
    """Write the pairs `name1, name2` of all parts; return how many are written, and how many cannot be.

    Those of a name with a blank, which a reader would take for two names, are left out and logged.
    """
    written = left_out = 0
    with (
        atomic_path(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        for pairs in parts:
            blank = pairs["name1"].str.contains(r"\s") | pairs["name2"].str.contains(r"\s")
            writable = pairs[~blank.astype(bool)]
            file.writelines(
                f"{one} {two}\n" for one, two in zip(writable["name1"], writable["name2"], strict=True)
            )
            written += len(writable)
            left_out += len(pairs) - len(writable)
    if left_out:
        logger.warning("%s: %d pairs left out: a name with a blank cannot be written", path, left_out)
    return written, left_out
