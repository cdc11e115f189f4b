"""A benchmark: photos to search, queries, and what each of them must find."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cnnimretrieval.descriptors.images import Box, ImageRequest
from cnnimretrieval.evaluation.metrics import Relevance

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A photo to search with, or the `box` of it in px of the photo as it is read; None is the whole."""

    name: str
    box: Box | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark:
    """Names are POSIX paths below `photos`, those of the queries below `query_photos`.

    A protocol has one `Relevance` a query, in rows of `database`; "" names the only one. With `depth` average
    precision is that of `metrics.average_precision_at`. `published_size` is the number of photos that the
    published benchmark has, None for one of the user's own; `as_stored` has photos read without their EXIF
    orientation, as the published benchmarks' own code does; `told` counts by reason what was wrong in its
    files. ValueError for names given twice, a protocol with other than one judgement a query, and when no
    query has a positive in any protocol.
    """

    name: str
    photos: Path
    query_photos: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    protocols: Mapping[str, tuple[Relevance, ...]]
    depth: int | None = None
    published_size: int | None = None
    as_stored: bool = False
    told: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twice, times = Counter(self.database).most_common(1)[0] if self.database else ("", 1)
        if times > 1:
            raise ValueError(
                f"{self.name}: expected every photo once, got '{twice}' twice; correct the ground truth"
            )
        for protocol, relevance in self.protocols.items():
            if len(relevance) != len(self.queries):
                raise ValueError(
                    f"{self.name}: expected a judgement for each of {len(self.queries)} queries, got "
                    f"{len(relevance)} in protocol '{protocol}'; correct the ground truth"
                )

        if not self.scored_protocols():
            raise ValueError(
                f"{self.name}: expected a query with positives, got none among {len(self.queries)}; "
                "correct the ground truth"
            )

    def scored_protocols(self) -> dict[str, tuple[Relevance, ...]]:
        """The protocols in which some query has a positive: the others have no mean."""
        return {
            protocol: relevance
            for protocol, relevance in self.protocols.items()
            if any(len(truth.positives) for truth in relevance)
        }

    def database_requests(self) -> list[ImageRequest]:
        """The photos to search."""
        return [ImageRequest(path=self.photos / name, as_stored=self.as_stored) for name in self.database]

    def query_requests(self, *, uncropped: bool = False) -> list[ImageRequest]:
        """The queries, cut out of their photos unless they are to be `uncropped`."""
        return [
            ImageRequest(
                path=self.query_photos / query.name,
                box=None if uncropped else query.box,
                as_stored=self.as_stored,
            )
            for query in self.queries
        ]

    def require_photos(self, *, database: bool = True, queries: bool = True) -> None:
        """FileNotFoundError naming the first photo that is missing, of those to search and of the queries."""
        if database:
            self._require(self.photos, self.database)
        if queries:
            self._require(self.query_photos, [query.name for query in self.queries])

    def _require(self, folder: Path, names: Sequence[str]) -> None:
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.name}: expected {len(names):,} photos below {folder}, got "
                f"{len(names) - len(missing):,}, without '{missing[0]}'; download what is missing"
            )


def judgement(positives: Sequence[int], junk: Sequence[int], num_photos: int, where: str) -> Relevance:
    """The ground truth of one query, checked: rows of the database, each once.

    ValueError that calls the query `where` for rows that are none or are judged twice.
    """
    return Relevance(
        positives=_rows(positives, num_photos, where),
        junk=_rows([*junk], num_photos, where, taken=frozenset(positives)),
    )


def tell_faults(where: str, told: Counter[str]) -> dict[str, int]:
    """What was wrong in a file of ground truth and put right, by reason; also as a line in the log."""
    faults = dict(+told)
    if faults:
        logger.warning("%s: %s", where, "; ".join(f"{count} {what}" for what, count in faults.items()))
    return faults


def _rows(
    rows: Sequence[int], num_photos: int, where: str, taken: frozenset[int] = frozenset()
) -> Int[np.ndarray, " r"]:
    seen = set(taken)
    for row in rows:
        if not 0 <= row < num_photos:
            raise ValueError(
                f"{where}: expected photos 0 to {num_photos - 1}, got {row}; correct the ground truth"
            )
        if row in seen:
            raise ValueError(f"{where}: expected every photo once, got {row} twice; correct the ground truth")
        seen.add(row)
    return np.array(rows, np.int64)
