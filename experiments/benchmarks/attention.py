"""Whether a local head attends to what can be matched: `python -m experiments.benchmarks.attention WORK`.

Of held-out photos that the reconstruction of a finished run knows: the mean attention at places that hold a
triangulated point over that at all other places. Goal: twice as much, median over photos.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from cnnimretrieval.training.local.maps import photo_maps
from cnnimretrieval.training.local.settings import LocalTrainingConfig
from cnnimretrieval.training.local.training import Lessons, read_lessons, teaching_models
from cnnimretrieval.training.photos.collection import Collection
from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table
from groundwork.files import read_json
from pairs.heldout import Purpose
from pairs.pair_table import PairTable, read_pair_table


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("work", type=Path, help="folder of a finished run, with its sfm/")
    parser.add_argument("--model", action="append", help="network; may be given again [WORK/model]")
    parser.add_argument("--image-size", type=int, default=724, help="longest side in px [%(default)s]")
    parser.add_argument("--every", type=int, default=1, help="take each N-th photo [%(default)s]")
    given = parser.parse_args(words)
    models = given.model or [str(given.work / "model")]
    try:
        networks = {model: load(model) for model in models}
        for network in networks.values():
            network.require_local()
        pairs = given.work / "pairs"
        table = read_pair_table(pairs)
        photos = Path(read_json(pairs / "photos.json")["photos"])
        files = teaching_models(pairs, LocalTrainingConfig())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    collection = Collection(photos=photos, table=table)
    lessons = read_lessons(pairs, collection, files, device="cpu", workers=0)
    rows = [row for row in held_out_rows(table, "report") if row in lessons.seen][:: given.every]
    found = {
        model: attention_ratios(network, lessons, rows, given.image_size)
        for model, network in networks.items()
    }
    print_table(
        ("network", "photos", "median", "mean", "at least 2"),
        [(model, *_in_short(ratios)) for model, ratios in found.items()],
    )
    best = max(float(np.median(ratios)) for ratios in found.values())
    what = "attention at triangulated places over that elsewhere"
    return conclude([Claim(what=what, measured=best, limit=2.0, at_least=True)])


def held_out_rows(table: PairTable, purpose: Purpose) -> list[int]:
    """The photos of held-out places: those to choose by, or those that nothing is chosen by."""
    wanted = table.is_choosing == (purpose == "choose")
    rows: list[int] = np.flatnonzero(table.is_val & (table.place >= 0) & wanted).tolist()
    return rows


def attention_ratios(
    network: RetrievalNetwork, lessons: Lessons, rows: Sequence[int], image_size: int
) -> Float[np.ndarray, " p"]:
    """Of each photo, the mean attention at places of triangulated points over that at all other places.

    Photos without such points, or with nothing else, are left out.
    """
    _, head = network.require_local()
    requests = [lessons.collection.whole(row) for row in rows]
    ratios = []
    with photo_maps(network, requests, [image_size] * len(rows), device="cpu", workers=0) as maps:
        for one, row in zip(maps, rows, strict=True):
            activations = torch.from_numpy(one.activations.astype(np.float32)).T
            with torch.inference_mode():
                scores = head(activations.reshape(1, -1, one.height, one.width)).scores.flatten().numpy()
            places = np.unique(one.places_of(lessons.seen[row].xy))
            on = np.zeros(len(scores), np.bool_)
            on[places[places >= 0]] = True
            if on.any() and not on.all():
                ratios.append(float(scores[on].mean() / max(scores[~on].mean(), 1e-12)))
    return np.array(ratios)


def _in_short(ratios: Float[np.ndarray, " p"]) -> tuple[str, ...]:
    return (
        str(len(ratios)),
        f"{np.median(ratios):.2f}",
        f"{ratios.mean():.2f}",
        f"{(ratios >= 2.0).mean():.2f}",
    )


if __name__ == "__main__":
    sys.exit(main())
