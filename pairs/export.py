"""Stage: mined pairs -> the published format, for the reference toolbox, and a pair list for hloc."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from groundwork.photo_source import read_source
from groundwork.progress import progress
from groundwork.records import record_of
from pairs.pair_table import PairTable, read_pair_table
from pairs.published_pairs import PublishedPairs, photo_of
from pairs.retrieval_sfm_files import write_training_pairs, write_whitening_pairs
from sfm.pairlists import write_pair_list

_NOT_IN_NAMES = frozenset('/\\<>:"|?*')
# What Windows takes for devices, whatever follows a dot.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789")}
# In bytes: file systems allow 255, and endings are added.
_LONGEST_NAME = 200


def export(pairs_dir: Path, out: Path, name: str) -> Path:
    """Write what mining left in `pairs_dir` for other programs; returns the pickle.

    `out` gets NAME.pkl, NAME-whiten.pkl (the training pairs), hloc-pairs.txt, and below ims a link to every
    photo under the name that the toolbox looks for. ValueError for a name that `require_file_name` refuses,
    FileNotFoundError when mining has not finished.
    """
    require_file_name(name, "export")
    if record_of(pairs_dir, "mine") is None:
        raise FileNotFoundError(
            f"export: expected a folder that mining finished, got {pairs_dir}; run mine first"
        )
    table = read_pair_table(pairs_dir)
    train, val = (published_side(table, side) for side in ("train", "val"))
    write_whitening_pairs(train, out / f"{name}-whiten.pkl")
    write_training_pairs(train, val, out / f"{name}.pkl")
    write_hloc_pairs(table, out / "hloc-pairs.txt")
    photos = read_source(pairs_dir).folder
    for row in progress(np.flatnonzero(table.place >= 0), desc="export", unit="photo"):
        link = out / "ims" / photo_of(cid_of(table.names[row]))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.abspath(photos / table.names[row]))
    return out / f"{name}.pkl"


def require_file_name(name: str, what: str) -> None:
    """ValueError unless every system takes `name` for the name of a file, and of none in another folder."""
    plain = name.isprintable() and not _NOT_IN_NAMES & set(name) and name.strip(" .") and name[-1] not in " ."
    reserved = name.partition(".")[0].strip().upper() in _RESERVED
    if not plain or reserved or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        raise ValueError(f"{what}: expected a name for files, got {name!r}; take letters and digits")


def published_side(table: PairTable, side: Literal["train", "val"]) -> PublishedPairs:
    """One side of a table in the published layout: its images that have a place.

    What the published files call a cluster is what negatives are never drawn from: here a place, from 1. A
    cid is a hash of the name. Weights are not expressed: a query counts as often as it has positives.
    """
    rows = np.flatnonzero((table.place >= 0) & (table.is_val == (side == "val")))
    positives = table.positives_of(side)
    return PublishedPairs(
        cids=tuple(cid_of(table.names[row]) for row in rows),
        cluster=table.place[rows] + 1,
        query=np.searchsorted(rows, positives.query),
        positive=np.searchsorted(rows, positives.positive),
    )


def cid_of(name: str) -> str:
    """32 hexadecimal digits that stand for a name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def write_hloc_pairs(table: PairTable, path: Path) -> None:
    """Write the matching pairs as Hierarchical-Localization lists them, each once."""
    pairs = np.sort(np.stack([table.positives.query, table.positives.positive], axis=1), axis=1)
    names = np.array(table.names, dtype=object)[np.unique(pairs, axis=0)]
    write_pair_list(path, [pd.DataFrame(names, columns=["name1", "name2"], dtype=object)])
