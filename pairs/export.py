"""Stage: mined pairs -> the published format, for the reference toolbox, and a pair list for hloc."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from groundwork.files import atomic_path, read_json
from pairs.pair_table import PairTable, read_pair_table
from pairs.published_pairs import PublishedPairs, photo_of
from pairs.retrieval_sfm_files import write_training_pairs, write_whitening_pairs


def export(pairs_dir: Path, out: Path, name: str) -> Path:
    """Write what mining left in `pairs_dir` for other programs; returns the pickle.

    `out` gets NAME.pkl, NAME-whiten.pkl (the training pairs), hloc-pairs.txt, and below ims a link to every
    photo under the name that the toolbox looks for. FileNotFoundError when mining has not finished.
    """
    if not (pairs_dir / "done" / "mine.json").is_file():
        raise FileNotFoundError(
            f"export: expected a folder that mining finished, got {pairs_dir}; run mine first"
        )
    table = read_pair_table(pairs_dir)
    photos = Path(read_json(pairs_dir / "photos.json")["photos"])
    for row in tqdm(np.flatnonzero(table.place >= 0), desc="export", unit="photo", disable=None):
        link = out / "ims" / photo_of(cid_of(table.names[row]))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.abspath(photos / table.names[row]))
    train, val = (published_side(table, side) for side in ("train", "val"))
    write_hloc_pairs(table, out / "hloc-pairs.txt")
    write_whitening_pairs(train, out / f"{name}-whiten.pkl")
    write_training_pairs(train, val, out / f"{name}.pkl")
    return out / f"{name}.pkl"


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
    """Write the matching pairs as Hierarchical-Localization lists them: two names a line, each pair once.

    ValueError for a name with a blank, which its reader would take for two.
    """
    blank = next((name for name in table.names if any(letter.isspace() for letter in name)), None)
    if blank is not None:
        raise ValueError(f"pair list: expected names without blanks, got {blank!r}; rename the photo")
    pairs = np.sort(np.stack([table.positives.query, table.positives.positive], axis=1), axis=1)
    lines = [f"{table.names[a]} {table.names[b]}\n" for a, b in np.unique(pairs, axis=0)]
    with atomic_path(path) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8")
