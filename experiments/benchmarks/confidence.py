"""Whether results are as sure as they say: `python -m experiments.benchmarks.confidence WORK --model MODEL`.

A calibration is learned from the places of a run that choices are made on, and the confidence that it states
is held against what share of results is right on the reported ones; each query is asked once with its place
and once without, when nothing fits.
"""

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from cnnimretrieval.evaluation.calibrate import Results
from cnnimretrieval.networks.open import load
from cnnimretrieval.search.confidence import Calibration
from cnnimretrieval.training.photos.descriptions import descriptions_of
from cnnimretrieval.training.proof.calibrating import calibrate, results_of
from experiments.benchmarks.measuring.measure import arguments, print_table

_EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_LEAST = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def reliability(results: Results, stated: Float[np.ndarray, " n"]) -> list[list[str]]:
    """A row for each range of stated confidence: results, their mean confidence, the share that is right."""
    rows = []
    for low, high in pairwise(_EDGES):
        inside = (stated >= low) & ((stated < high) | (high == 1.0))
        if inside.any():
            mean, right = stated[inside].mean(), results.right[inside].mean()
            rows.append([f"{low:g} to {high:g}", f"{inside.sum():,}", f"{mean:.3f}", f"{right:.3f}"])
    return rows


def thresholds(results: Results, stated: Float[np.ndarray, " n"]) -> list[list[str]]:
    """A row for each least confidence: what share of what is shown is right, found, and rightly left out."""
    rows = []
    for least in _LEAST:
        shown = stated >= least
        right = results.right
        empty = 1.0 - _share_of_queries(shown, results, there=False)
        rows.append(
            [
                f"{least:g}",
                f"{right[shown].mean():.3f}" if shown.any() else "",
                f"{(shown & right).sum() / right.sum():.3f}",
                f"{empty:.3f}",
                f"{_share_of_queries(shown, results, there=True):.3f}",
            ]
        )
    return rows


def _share_of_queries(shown: Bool[np.ndarray, " n"], results: Results, there: bool) -> float:
    """Of queries with their place, or without, those that get a result; the first result decides."""
    first = results.first & (results.there == there)
    return float(shown[first].mean())


def main() -> int:
    """Print both tables."""
    parser = arguments(__doc__)
    parser.add_argument("work", type=Path, help="folder of a run, whose pairs are read")
    parser.add_argument("--model", default=None, help="default: WORK/model")
    parser.add_argument("--out", type=Path, required=True, help="where descriptors are kept")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1)
    options: argparse.Namespace = parser.parse_args()
    descriptions = descriptions_of(
        options.work / "pairs", options.out, options.image_size, workers=options.workers
    )
    network = load(options.model or str(options.work / "model"))
    calibration: Calibration | None = calibrate(descriptions, network)
    results = results_of(descriptions, network, "report")
    if calibration is None or results is None:
        print("too few places to choose by, or to report of", file=sys.stderr)
        return 1
    stated = calibration.confidence(results.excess, 0.0)
    print(f"{len(calibration.curves)} places taught it by {calibration.queries:,} queries")
    print_table(("stated", "results", "mean stated", "right"), reliability(results, stated))
    print()
    header = ("least", "right of those shown", "shown of those right", "nothing fits: nothing", "fits: some")
    print_table(header, thresholds(results, stated))
    return 0


if __name__ == "__main__":
    sys.exit(main())
