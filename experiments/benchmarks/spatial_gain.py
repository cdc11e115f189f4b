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

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, extract
from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.heldout import HeldoutTest, heldout_test
from cnnimretrieval.evaluation.metrics import Relevance
from cnnimretrieval.evaluation.scoring import Scored, score
from cnnimretrieval.local.detected import PhotoFeatures, detect_each, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.networks.open import load
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.search.spatial import Verifier
from cnnimretrieval.whitening.apply import apply
from experiments.benchmarks.measure import Claim, arguments, conclude
from experiments.commands import reranking
from groundwork.files import read_json, read_table
from pairs.heldout import read_heldout

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
    names = read_table(given.work / "pairs" / "images.parquet", ["name"])["name"].tolist()
    requests = [ImageRequest(path=photos / name) for name in names]
    config = ExtractConfig(image_size=given.image_size)
    store = extract(network, requests, photos, given.out / "database", config, workers=given.workers)
    held_out = read_heldout(given.work / "pairs" / "heldout.parquet")
    crops = [query for query in held_out if query.kind == "crop"][:: given.every]
    test = heldout_test(crops, store.images["name"].tolist(), photos)
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


def _benchmark(test: HeldoutTest, photos: Path) -> Benchmark:
    by_place = []
    for query, truth in zip(test.queries, test.relevance, strict=True):
        own = test.names.index(query.query)
        place = np.concatenate([truth.positives, truth.junk])
        by_place.append(Relevance(positives=place[place != own], junk=np.array([own])))
    return Benchmark(
        name="held-out crops",
        photos=photos,
        query_photos=photos,
        database=test.names,
        queries=tuple(Query(name=query.query) for query in test.queries),
        protocols={"tracks": test.relevance, "place": tuple(by_place)},
    )


def _verifiers(
    rerank: RerankConfig, test: HeldoutTest, store: DescriptorStore, cache: Path, workers: int
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


def _maps(found: Scored, test: HeldoutTest) -> dict[str, float]:
    return {
        kind: float(np.mean(list(test.place_maps(scores.average_precision, "crop").values())))
        for kind, scores in found.scores.items()
    }


if __name__ == "__main__":
    sys.exit(main())
