"""What windows beside whole photos are worth: `python -m experiments.benchmarks.regions WORK --model MODEL`.

The held-out queries of a run are asked of its held-out photos, each scored by the best of its rows: whole
photos alone, with grids of windows, and with descriptors shortened so that all rows together take the
memory of one. `--purpose choose` is for choosing, `report` for what is published. What is described is kept
in --out.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.windows import RegionConfig, with_windows
from cnnimretrieval.evaluation.heldout import KindProof, Proof, gain
from cnnimretrieval.evaluation.metrics import average_precision, places_without_junk
from cnnimretrieval.evaluation.queries import QuerySet, Situation
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from cnnimretrieval.search.photo_rows import ByPhoto, PhotoRows
from cnnimretrieval.training.photos.descriptions import Descriptions, descriptions_of
from cnnimretrieval.whitening.apply import apply
from experiments.benchmarks.measuring.measure import arguments, print_table

_KINDS = ("crop", "retaken", "whole")
_BYTES = 4


def prove_by_photo(
    queries: QuerySet,
    situation: Situation,
    asked: Float[np.ndarray, "q d"],
    searched: Float[np.ndarray, "n d"],
    photo_rows: PhotoRows,
) -> Proof:
    """As `heldout.prove`, of photos that have several rows; photo i is the i-th that is searched."""
    number_of = np.searchsorted(photo_rows.photos, photo_rows.first_row)
    by_photo = ByPhoto(photo_rows, searched)
    found: dict[str, list[tuple[float, float, int]]] = {}
    for number, vector in zip(situation.queries.tolist(), asked, strict=True):
        ranked = number_of[by_photo(vector[None], len(photo_rows.photos)).rows[0]]
        rank: Int[np.ndarray, " p"] = np.argsort(ranked)
        near, far, junk = queries.truth(number, situation)
        places = places_without_junk(np.sort(rank[np.concatenate([near, far])]), rank[junk])
        query = queries.queries[number]
        precision = average_precision(places, len(near) + len(far))
        found.setdefault(query.kind, []).append((precision, float(places[0] == 0), query.place))
    kinds = {
        kind: KindProof(
            average_precision=np.array([one[0] for one in rows]),
            precision_at_1=np.array([one[1] for one in rows]),
            place=np.array([one[2] for one in rows]),
        )
        for kind, rows in found.items()
    }
    return Proof(situation=situation.name, kinds=kinds)


class Windowed:
    """Descriptors of what is asked and searched, with windows of the searched photos."""

    def __init__(self, descriptions: Descriptions, situation: Situation, network: RetrievalNetwork) -> None:
        self._descriptions, self._situation, self._network = descriptions, situation, network
        self.asked, self._whole = descriptions.of_situation(network, situation)
        self.seconds: dict[int, float] = {}

    def rows(self, grids: tuple[int, ...]) -> tuple[Float[np.ndarray, "n d"], PhotoRows]:
        """All rows of the searched photos, not whitened, and which are of one photo."""
        n, dim = self._whole.shape
        parts = [self._whole[:, None]]
        for grid in grids:
            collection, config = self._descriptions.collection, RegionConfig(grids=(grid,))
            rows = self._situation.database
            photos = [collection.whole(row) for row in (range(n) if rows is None else rows.tolist())]
            requests = [request for request in with_windows(photos, config) if request.box is not None]
            started = time.process_time()
            found = self._descriptions.of(self._network, f"windows {grid}", requests)
            self.seconds.setdefault(grid, time.process_time() - started)
            parts.append(np.asarray(found).reshape(n, -1, dim))
        together = np.concatenate(parts, axis=1)
        number = together.shape[1]
        first_row = np.repeat(np.arange(n) * number, number)
        return together.reshape(-1, dim), PhotoRows(first_row=first_row)


def measured(
    descriptions: Descriptions, situation: Situation, network: RetrievalNetwork, grids_asked: Sequence[int]
) -> list[Sequence[str]]:
    """A row of the table for each way of describing photos: without windows, by each grid, by all grids."""
    windowed = Windowed(descriptions, situation, network)
    whitening = network.whitening
    table: list[Sequence[str]] = []
    plain: Proof | None = None
    together = [tuple(grids_asked)] if len(grids_asked) > 1 else []
    for grids in [(), *((grid,) for grid in grids_asked), *together]:
        vectors, photo_rows = windowed.rows(grids)
        dims: list[int | None] = [None]
        if whitening is not None:
            dims += [whitening.dim // photo_rows.most] if grids else [whitening.dim // 5, whitening.dim // 10]
        for dim in dims:
            asked, searched = windowed.asked, vectors
            if whitening is not None:
                asked, searched = apply(whitening, asked, dim), apply(whitening, searched, dim)
            proof = prove_by_photo(descriptions.queries, situation, asked, searched, photo_rows)
            plain = plain or proof
            over = gain(proof, plain)
            scores = proof.scores
            name = "whole" if not grids else " + ".join(["whole", *(f"{n} x {n}" for n in grids)])
            table.append(
                (
                    name,
                    str(searched.shape[1]),
                    f"{_BYTES * searched.shape[1] * photo_rows.most:,}",
                    *(f"{scores[kind].map:.4f}" if kind in scores else "" for kind in _KINDS),
                    str(over),
                )
            )
    for grid, seconds in windowed.seconds.items():
        print(f"{grid} x {grid}: {seconds:.0f} s of a core for the windows, none where they were kept")
    return table


def main() -> int:
    """Print a table of mAP, memory and gain."""
    parser = arguments(__doc__)
    parser.add_argument("work", type=Path, help="folder of a run, whose pairs are read")
    parser.add_argument("--model", default=None, help="default: WORK/model")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--out", type=Path, required=True, help="where descriptors are kept")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--purpose", choices=("choose", "report"), default="choose")
    parser.add_argument("--grids", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--workers", type=int, default=1)
    options: argparse.Namespace = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    descriptions = descriptions_of(
        options.work / "pairs", options.out, options.image_size, workers=options.workers
    )
    situation = descriptions.queries.situations(options.purpose)[0]
    network = load(options.model or str(options.work / "model"), options.weights)
    rows = measured(descriptions, situation, network, options.grids)
    searched = "all" if situation.database is None else f"{len(situation.database):,}"
    print(f"{len(situation.queries):,} queries of purpose {options.purpose}, {searched} photos searched")
    header = ("rows of a photo", "length", "bytes a photo", *(f"{kind} mAP" for kind in _KINDS), "crop gain")
    print_table(header, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
