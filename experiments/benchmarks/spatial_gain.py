"""What re-ranking by geometry adds on the held-out crop queries of a finished run.

Positives are judged in two ways: by the tracks that the reconstruction found, which are made of SIFT and so
favour SIFT, and by place, where every photo of the query's place counts: more than geometry can see.
Each setting is a list of --rerank steps. Means are over places, of means over a place's queries.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, extract
from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.metrics import Relevance
from cnnimretrieval.evaluation.queries import QuerySet, query_set
from cnnimretrieval.evaluation.scoring import Scored, score
from cnnimretrieval.local.detected import PhotoFeatures, detect_each, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.networks.open import load
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.search.spatial import Verifier
from cnnimretrieval.whitening.apply import apply
from experiments.benchmarks.measure import Claim, arguments, conclude
from experiments.commands import reranking
from groundwork.files import read_json
from pairs.heldout import read_heldout
from pairs.pair_table import read_pair_table

_SETTINGS = (
    "spatial:features=sift",
    "spatial:features=sift,geometry=homography",
    "spatial:features=sift,order=blend",
    "spatial:features=sift qe:verified",
)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("work", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to keep descriptors and keypoints in")
    parser.add_argument("--image-size", type=int, default=362, help="longest side [%(default)s]")
    parser.add_argument("--every", type=int, default=1, help="take each N-th query [%(default)s]")
    parser.add_argument("--workers", type=int, default=1, help="processes [%(default)s]")
    parser.add_argument("--setting", action="append", help="steps, separated by spaces; may be given again")
    given = parser.parse_args(words)
    photos = Path(read_json(given.work / "pairs" / "photos.json")["photos"])
    network = load(str(given.work / "model"), None)
    table = read_pair_table(given.work / "pairs")
    names = table.names
    requests = [ImageRequest(path=photos / name) for name in names]
    config = ExtractConfig(image_size=given.image_size)
    store = extract(network, requests, photos, given.out / "database", config, workers=given.workers)
    held_out = read_heldout(given.work / "pairs" / "heldout.parquet")
    unseen = {name for name, is_val in zip(names, table.is_val, strict=True) if is_val}
    crops = [
        query
        for query in held_out
        if query.kind == "crop" and query.purpose == "report" and query.query in unseen
    ][:: given.every]
    test = query_set(crops, table, photos)
    described = describe(network, test.requests, config, workers=given.workers)
    vectors = described.require_all()
    whitening = network.whitening_for(config.scales)
    queries = vectors if whitening is None else apply(whitening, vectors)
    benchmark = _benchmark(test, photos)
    plain: dict[str, float] = {}
    gains = []
    for setting in ("", *(given.setting or _SETTINGS)):
        rerank = reranking.settings(setting.split())
        verifiers, seconds = _verifiers(rerank, test, store, given.out / "keypoints", given.workers)
        started, used = time.perf_counter(), time.process_time()
        found = score(benchmark, queries, store.vectors, np.arange(len(names)), rerank, verifiers)
        wall = (time.perf_counter() - started) / len(crops)
        cpu = (time.process_time() - used) / len(crops)
        maps = _maps(found, test)
        plain = plain or maps
        shown = ", ".join(f"{kind} {value:.4f} ({value - plain[kind]:+.4f})" for kind, value in maps.items())
        times = f"{1e3 * wall:.0f} ms a query, {1e3 * cpu:.0f} of processor time"
        print(
            f"{setting or 'global descriptor'}: {shown}; {times}, {seconds:.0f} s for keypoints", flush=True
        )
        if setting:
            gains.append(maps["tracks"] - plain["tracks"])
    return conclude(
        [Claim(what="mAP gained by the best setting", measured=max(gains), limit=0.05, at_least=True)]
    )


def _benchmark(test: QuerySet, photos: Path) -> Benchmark:
    """The whole collection as database: what shares points with a crop, or all of its place, is right."""
    situation = next(one for one in test.situations("report") if one.database is None)
    by_tracks, by_place = [], []
    for number, query in enumerate(test.queries):
        own = test.table.names.index(query.query)
        near, far, junk = test.truth(number, situation)
        by_tracks.append(Relevance(positives=np.concatenate([near, far]), junk=junk))
        place = np.concatenate([near, far, junk])
        by_place.append(Relevance(positives=place[place != own], junk=np.array([own])))
    return Benchmark(
        name="held-out crops",
        photos=photos,
        query_photos=photos,
        database=test.table.names,
        queries=tuple(Query(name=query.query) for query in test.queries),
        protocols={"tracks": tuple(by_tracks), "place": tuple(by_place)},
    )


def _verifiers(
    rerank: RerankConfig, test: QuerySet, store: DescriptorStore, cache: Path, workers: int
) -> tuple[list[Verifier], float]:
    """A verifier a query, all keypoints found beforehand, and the seconds that took."""
    if rerank.spatial is None:
        return [], 0.0
    started = time.perf_counter()
    found = detection(rerank.spatial.features, rerank.spatial.max_features)
    of_rows = PhotoFeatures(store.request, found, cache=cache, workers=workers)
    of_rows.prepare(range(len(store.vectors)))
    features = [one.features() for one in detect_each(test.requests, found, workers=workers)]

    def verifier(query: LocalFeatures) -> Verifier:
        assert rerank.spatial is not None
        return Verifier(lambda: query, of_rows, rerank.spatial)

    return [verifier(query) for query in features], time.perf_counter() - started


def _maps(found: Scored, test: QuerySet) -> dict[str, float]:
    """Means over places of the mean over a place's queries."""
    place = [query.place for query in test.queries]
    return {
        kind: float(pd.Series(scores.average_precision).groupby(place).mean().mean())
        for kind, scores in found.scores.items()
    }


if __name__ == "__main__":
    sys.exit(main())
