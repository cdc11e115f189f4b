"""Extraction of photos that were extracted before: what is known by its content is kept, the rest described.

`contents.parquet` beside the descriptors has a row for each photo or box that was asked for: `name`, its box
`x1, y1, x2, y2` (NaN for the whole photo), `size` and `modified_ns` of its file, the `sha256` of its content
("" where it could not be read), `row` in vectors.npy (-1 for none), and whether it was `removed` since.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.describer import Describer
from cnnimretrieval.descriptors.extract import Described
from cnnimretrieval.descriptors.images import ImageRequest
from groundwork.arrays import slices
from groundwork.descriptor_folder import BOX, META, STAGE, VECTORS
from groundwork.digest import sha256_of
from groundwork.files import atomic_path, create_array, read_table, size_and_time
from groundwork.names import name_below
from groundwork.records import last_done, record_of

logger = logging.getLogger(__name__)

CONTENTS = "contents.parquet"
_ADDED = "added.npy"
_COLUMNS = ["name", *BOX, "size", "modified_ns", "sha256", "row", "removed"]
_BLOCK = 16384
# Hashing waits for the disk more than for a core.
_READERS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Earlier:
    """What an extraction left that was made by the same network in the same way: vectors and contents."""

    vectors: Float[np.ndarray, "n d"]
    contents: pd.DataFrame

    def rows_of(self, contents: pd.DataFrame) -> Int[np.ndarray, " r"]:
        """The row of `vectors` that describes each content, -1 where none does."""
        described = self.contents[self.contents["row"] >= 0]
        row_of = dict(zip(_identities(described), described["row"].tolist(), strict=True))
        readable = (contents["sha256"] != "").to_numpy()
        found = np.array([row_of.get(identity, -1) for identity in _identities(contents)], np.int64)
        return np.where(readable, found, -1)

    def removed(self, contents: pd.DataFrame) -> pd.DataFrame:
        """What was described, now or before, and is not among `contents`, marked as removed.

        Its `row` is still that of `vectors`, -1 for what was removed earlier.
        """
        gone = ~pd.Series(_identities(self.contents)).isin(_identities(contents)).to_numpy()
        described = self.contents["removed"].to_numpy() | (self.contents["row"] >= 0).to_numpy()
        return self.contents[gone & described].assign(removed=True)


def read_earlier(out: Path, key: str, made: str) -> Earlier | None:
    """What `extract` left in `out` under another key than `key`, of the same network and settings (`made`).

    None where there is nothing of the kind, or not whole: then everything is described anew.
    """
    record = record_of(out, STAGE)
    if record is None or record.key == key or record.basis.get("made") != made:
        return None
    if last_done(out, STAGE) is None:
        return None
    vectors = np.load(out / VECTORS, mmap_mode="r", allow_pickle=False)
    return Earlier(vectors=vectors, contents=read_table(out / CONTENTS, _COLUMNS))


def describe_new(
    describer: Describer,
    requests: Sequence[ImageRequest],
    contents: pd.DataFrame,
    earlier: Earlier | None,
    out: Path,
) -> Described:
    """Write the descriptors of all requests to the folder `out`; those that `earlier` knows are not made.

    Until the others are there the folder stays as it was: a run that is killed loses none of it.
    """
    if earlier is None:
        (out / META).unlink(missing_ok=True)
        return describer.into(out / VECTORS, requests)
    rows = earlier.rows_of(contents)
    asked = np.flatnonzero(rows < 0)
    added = describer.into(out / _ADDED, [requests[position] for position in asked.tolist()])
    (out / META).unlink(missing_ok=True)
    described = _joined(earlier, rows, added, asked, out / VECTORS)
    (out / _ADDED).unlink()
    logger.info(
        "extract: %d photos are known by their content, %d described, %d removed since",
        int((rows >= 0).sum()),
        len(added.positions),
        int((earlier.removed(contents)["row"] >= 0).sum()),
    )
    return described


def contents_of(requests: Sequence[ImageRequest], photos: Path, earlier: Earlier | None) -> pd.DataFrame:
    """The table of what is asked for, with `row` -1. A file of the size and time known before is not read."""
    facts = [size_and_time(request.path) for request in requests]
    boxes = np.array([request.box or (np.nan,) * 4 for request in requests], np.float64)
    table = pd.DataFrame({"name": [name_below(r.path, photos) for r in requests]})
    table[list(BOX)] = boxes
    table["size"] = np.array([size for size, _ in facts], np.int64)
    table["modified_ns"] = np.array([modified_ns for _, modified_ns in facts], np.int64)
    known: dict[tuple[str, int, int], str] = {}
    if earlier is not None:
        known = dict(zip(_files(earlier.contents), earlier.contents["sha256"].tolist(), strict=True))
    found = [known.get(file, "") for file in _files(table)]
    unread = list(dict.fromkeys(r.path for r, sha256 in zip(requests, found, strict=True) if not sha256))
    with ThreadPoolExecutor(_READERS) as pool:
        read = dict(zip(unread, pool.map(_sha256, unread), strict=True))
    table["sha256"] = [sha256 or read[r.path] for r, sha256 in zip(requests, found, strict=True)]
    return table.assign(row=np.int64(-1), removed=False)


def with_rows(
    contents: pd.DataFrame, positions: Int[np.ndarray, " n"], earlier: Earlier | None
) -> pd.DataFrame:
    """The table to keep: row i of the descriptors is of content `positions[i]`; then what was removed."""
    rows = np.full(len(contents), -1, np.int64)
    rows[positions] = np.arange(len(positions))
    table = contents.assign(row=rows)
    if earlier is None:
        return table
    return pd.concat([table, earlier.removed(contents).assign(row=np.int64(-1))], ignore_index=True)


def _joined(
    earlier: Earlier,
    rows: Int[np.ndarray, " r"],
    described: Described,
    asked: Int[np.ndarray, " a"],
    out: Path,
) -> Described:
    """Write to `out`, in the order of all requests, the rows kept and those described; return all of them.

    `rows` has the earlier row of each request, -1 for those described now, which were the requests `asked`.
    """
    new = np.full(len(rows), -1, np.int64)
    new[asked[described.positions]] = np.arange(len(described.positions))
    positions = np.flatnonzero((rows >= 0) | (new >= 0))
    with atomic_path(out) as unfinished:
        vectors = create_array(unfinished, (len(positions), earlier.vectors.shape[1]), np.float32)
        for part in slices(len(positions), _BLOCK):
            some, block = positions[part], vectors[part]
            kept = rows[some] >= 0
            block[kept] = earlier.vectors[rows[some[kept]]]
            block[~kept] = described.vectors[new[some[~kept]]]
        vectors.flush()
    failures = tuple(replace(one, position=int(asked[one.position])) for one in described.failures)
    return Described(vectors=np.load(out, mmap_mode="r"), positions=positions, failures=failures)


def _identities(contents: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What decides a descriptor: the bytes, the box, and the suffix, which tells raw files from pictures."""
    boxes = contents[list(BOX)].to_numpy(np.float64).tolist()
    return [
        (sha256, Path(name).suffix.lower(), repr(box))
        for sha256, name, box in zip(contents["sha256"], contents["name"], boxes, strict=True)
    ]


def _files(contents: pd.DataFrame) -> list[tuple[str, int, int]]:
    return list(zip(contents["name"], contents["size"], contents["modified_ns"], strict=True))


def _sha256(path: Path) -> str:
    """Of a file's content; nothing for one that cannot be read, which the reader of photos will tell of."""
    try:
        return sha256_of(path) if path.is_file() else ""
    except OSError:
        return ""
