"""GeM, average, maximum, and mean and maximum in a learned layer, on classification and on retrieval.

The trunk is frozen and sees the central square of each photo once; pooling, layer and a linear classifier
learn from its maps. Retrieval asks each test photo for the others of its class, by the unit vector that is
classified. Without a folder the demo's places are rendered and are the classes. Differences are of the same
test photos, means over the classes of all seeds, with the 95 % interval of a bootstrap over these.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int
from PIL import Image, ImageOps
from tqdm import tqdm

from cnnimretrieval.descriptors.extract import evaluating
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.reading import read_each
from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from cnnimretrieval.evaluation.paired import Difference, paired_difference
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from experiments.benchmarks.contenders.pooled_classifier import WAYS, Learning, learn
from experiments.benchmarks.material.classified_photos import (
    ClassifiedPhotos,
    read_folders,
    read_pets,
    render_places,
)
from experiments.benchmarks.measuring.measure import arguments, print_table, timed
from experiments.exit_codes import lines_of
from groundwork.files import create_array
from groundwork.top_k import search

_HEADER = ("pooling", "accuracy", "mAP", "accuracy, difference", "mAP, difference", "exponent", "processor s")
# What is read before the square is cut out and scaled, in sides of the square: nothing is enlarged before.
_READ = 2
_SCORES = {"accuracy": "right", "map": "average_precision"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One way of pooling with one seed: of each test photo whether it was recognised, and its AP."""

    right: Float[np.ndarray, " n"]
    average_precision: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    exponent: float | None
    seconds: float


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the table, or JSON; what is wrong with the input is one line."""
    parser = arguments(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--pets", type=Path, help="folder with images/ and annotations/ of Oxford-IIIT Pets")
    source.add_argument("--folders", type=Path, help="folder with a folder of photos for each class")
    parser.add_argument("--backbone", default="timm:tf_efficientnet_lite0", help="[%(default)s]")
    parser.add_argument("--weights", default="package:efficientnet_lite0", help="FILE, or [%(default)s]")
    parser.add_argument("--side", type=int, default=224, help="of the square in px [%(default)s]")
    parser.add_argument("--steps", type=int, default=Learning().steps, help="of learning [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--workers", type=int, default=1, help="processes that read photos [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    given = parser.parse_args(words)
    for name in ("side", "steps", "seeds"):
        if getattr(given, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(given, name)}; give a larger one")
    try:
        with TemporaryDirectory() as scratch:
            _measure(given, Path(scratch))
    except (OSError, ValueError) as error:
        print(lines_of(error)[0], file=sys.stderr)
        return 1
    return 0


def _measure(given: argparse.Namespace, scratch: Path) -> None:
    network = load(given.backbone, given.weights)
    photos = _photos(given, scratch)
    maps = maps_of(network, photos.paths, given.side, scratch / "maps.npy", given.workers)
    trials: dict[str, list[Trial]] = {name: [] for name in WAYS}
    for seed in range(given.seeds):
        is_test = photos.test_photos(seed)
        for name in WAYS:
            trials[name].append(_trial(name, maps, photos.labels, is_test, seed, given.steps))
            print(f"seed {seed}, {name}: {trials[name][-1].right.mean():.4f}", file=sys.stderr)
    tested = int(is_test.sum())
    what = f"{photos.what}: {len(photos.paths) - tested:,} photos to learn from, {tested:,} to test"
    if given.json:
        print(json.dumps({"photos": what, "seeds": given.seeds, "poolings": _values(trials)}, indent=1))
        return
    first = next(iter(WAYS))
    print(f"{what}; {given.seeds} seeds, {given.backbone} at {given.side} px, {given.steps} steps")
    print_table(_HEADER, [_row(name, trials[name], trials[first]) for name in WAYS])
    print(_verdict(trials))


def _photos(given: argparse.Namespace, scratch: Path) -> ClassifiedPhotos:
    if given.pets is not None:
        return read_pets(given.pets)
    return render_places(scratch / "rendered") if given.folders is None else read_folders(given.folders)


def maps_of(
    network: RetrievalNetwork, paths: Sequence[Path], side: int, out: Path, workers: int
) -> Float16[np.ndarray, "n c h w"]:
    """What the trunk gives for the central square of each photo, on disk; OSError names a bad photo."""
    square = partial(ImageOps.fit, size=(side, side), method=Image.Resampling.LANCZOS)
    requests = [ImageRequest(path=path, edit=square) for path in paths]
    maps: np.ndarray | None = None
    read = read_each(requests, _READ * side, workers=workers)
    with evaluating(network), torch.inference_mode():
        for row, loaded in enumerate(tqdm(read, desc="maps", unit="photo", total=len(paths), disable=None)):
            if loaded.levels is None:
                raise OSError(loaded.message)
            images = normalise(torch.from_numpy(loaded.levels)[None], network.trunk.mean, network.trunk.std)
            found = network.trunk(images)[0].numpy()
            if maps is None:
                maps = create_array(out, (len(paths), *found.shape), np.float16)
            maps[row] = found
    assert maps is not None  # no source is without photos
    return maps


def _trial(
    name: str,
    maps: Float16[np.ndarray, "n c h w"],
    labels: Int[np.ndarray, " n"],
    is_test: Bool[np.ndarray, " n"],
    seed: int,
    steps: int,
) -> Trial:
    learned, took = timed(lambda: learn(WAYS[name], maps, labels, is_test, seed, Learning(steps=steps)))
    tested = labels[is_test]
    return Trial(
        right=(learned.predicted == tested).astype(np.float64),
        average_precision=average_precisions(learned.descriptors, tested),
        labels=tested,
        exponent=learned.exponent,
        seconds=took.cpu,
    )


def average_precisions(
    descriptors: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Of each photo as a query among the others; those of its class are what is to be found."""
    relevance = [
        Relevance(positives=np.setdiff1d(np.flatnonzero(labels == label), row), junk=np.array([row]))
        for row, label in enumerate(labels.tolist())
    ]
    return score_rankings(search(descriptors, descriptors).rows, relevance).average_precision


def difference(one: Sequence[Trial], other: Sequence[Trial], score: str) -> Difference:
    """The second way over the first, by a score of the same photos; a class that two seeds test is two."""
    a, b = (np.concatenate([getattr(trial, score) for trial in trials]) for trials in (one, other))
    seeds = np.repeat(np.arange(len(one)), [len(trial.labels) for trial in one])
    labels = np.concatenate([trial.labels for trial in one])
    return paired_difference(a, b, seeds * (int(labels.max()) + 1) + labels, "places")


def _row(name: str, trials: Sequence[Trial], first: Sequence[Trial]) -> tuple[str, ...]:
    exponents = [trial.exponent for trial in trials if trial.exponent is not None]
    scores = [_with_range([getattr(trial, of).mean() for trial in trials]) for of in _SCORES.values()]
    gains = [_with_interval(difference(first, trials, of)) for of in _SCORES.values()]
    return (
        name,
        *scores,
        *(gains if trials is not first else [""] * len(gains)),
        f"{np.mean(exponents):.2f}" if exponents else "",
        f"{np.mean([trial.seconds for trial in trials]):.1f}",
    )


def _with_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"


def _with_interval(found: Difference) -> str:
    if found.low is None or found.high is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _values(trials: Mapping[str, Sequence[Trial]]) -> dict[str, object]:
    """Of each way, a value for each seed, and the differences to the first way."""
    first = next(iter(trials.values()))
    return {
        name: {
            **{score: [float(getattr(trial, of).mean()) for trial in own] for score, of in _SCORES.items()},
            "differences": {score: difference(first, own, of).model_dump() for score, of in _SCORES.items()},
            "exponent": [trial.exponent for trial in own],
            "seconds": [trial.seconds for trial in own],
        }
        for name, own in trials.items()
    }


def _verdict(trials: Mapping[str, Sequence[Trial]]) -> str:
    """Which way is best at either task."""
    best = [
        max(trials, key=lambda name: float(np.mean([getattr(trial, score).mean() for trial in trials[name]])))
        for score in _SCORES.values()
    ]
    return f"best at classification: {best[0]}; best at retrieval: {best[1]}"


if __name__ == "__main__":
    sys.exit(main())
