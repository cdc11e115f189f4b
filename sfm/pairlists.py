"""Stage: lists of image pairs for other tools, as hloc reads them: two names a line, parted by a blank.

    pairs-candidates.txt    every pair that was tried
    pairs-verified.txt      every pair that is trusted, the most inliers first
    pairs-covisible.txt     each registered image with up to 20 others that see most of its 3D points,
                            as hloc's pairs_from_covisibility makes it

The format has no quotes: pairs of a photo whose name holds a blank are left out, counted and told.
"""

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array

from sfm.keys import key_of
from sfm.model import Model, load_model
from sfm.records import load_done, mark_done
from sfm.store import atomic_path

logger = logging.getLogger(__name__)

_VERSION = 1
# hloc's own default.
_NEIGHBOURS = 20


def write_pair_lists(
    out: Path,
    key: str,
    names: Sequence[str],
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
    by_id = pd.Series(names, index=np.arange(1, len(names) + 1), dtype=str)
    lists: dict[str, pd.DataFrame] = {}
    if candidates is not None:
        lists["candidates"] = _named(candidates, by_id)
    if trusted is not None:
        lists["verified"] = _named(trusted.sort_values("inliers", ascending=False, kind="stable"), by_id)
    covisible = [covisible_pairs(load_model(folder / "arrays.npz")) for folder in model_folders]
    lists["covisible"] = pd.concat([pd.DataFrame({"name1": [], "name2": []}, dtype=str), *covisible])
    paths: list[Path] = []
    facts: dict[str, int] = {}
    for kind, pairs in lists.items():
        path = out / f"pairs-{kind}.txt"
        left_out = _write(path, pairs)
        paths.append(path)
        facts |= {kind: len(pairs) - left_out, f"{kind} left out": left_out}
        if left_out:
            logger.warning("%s: %d pairs left out: a name with a blank cannot be written", path, left_out)
    mark_done(out, "pair lists", key, seconds=time.perf_counter() - started, facts=facts, outputs=paths)


def covisible_pairs(model: Model, neighbours: int = _NEIGHBOURS) -> pd.DataFrame:
    """`name1, name2` of each image with the others that share most points with it, the most first."""
    seen = coo_array(
        (np.ones(model.num_observations), (model.track_image, model.track_point)),
        shape=(model.num_images, model.num_points),
    ).tocsr()
    seen.data[:] = 1.0  # an image may see a point twice
    shared = (seen @ seen.T).tocoo()
    other = shared.row != shared.col
    table = pd.DataFrame(
        {"query": shared.row[other], "other": shared.col[other], "shared": shared.data[other]}
    ).sort_values(["query", "shared", "other"], ascending=[True, False, True])
    table = table.groupby("query").head(neighbours)
    names = np.array(model.names, dtype=object)
    return pd.DataFrame({"name1": names[table["query"]], "name2": names[table["other"]]})


def _named(pairs: pd.DataFrame, by_id: "pd.Series[str]") -> pd.DataFrame:
    columns = {"name1": pairs["image_id1"].map(by_id), "name2": pairs["image_id2"].map(by_id)}
    return pd.DataFrame(columns)


def _write(path: Path, pairs: pd.DataFrame) -> int:
    """Write a list; return how many pairs cannot be written."""
    writable = ~(pairs["name1"].str.contains(r"\s") | pairs["name2"].str.contains(r"\s")).astype(bool)
    with atomic_path(path) as unfinished:
        pairs[writable].to_csv(
            unfinished, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE, lineterminator="\n"
        )
    return int((~writable).sum())
