"""One place of any size with made-up descriptors, and what proving on it takes."""

import time
from pathlib import Path

import numpy as np

from cnnimretrieval.evaluation.heldout import prove, ranking_table
from cnnimretrieval.evaluation.queries import QuerySet, query_set
from experiments.benchmarks.contenders.evaluators import resident_bytes
from pairs.heldout import HeldoutConfig, HeldoutQuery, Kind
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable

_DIM = 512
_DISTRACTORS = 1_000


def prove_place(photos: int) -> tuple[float, int]:
    """Processor seconds to prove a place of this size, and bytes taken for it at the peak."""
    rng = np.random.default_rng(0)
    towards = np.zeros((photos + _DISTRACTORS, _DIM), np.float32)
    towards[:photos, 0] = 20.0
    vectors = towards + rng.normal(size=towards.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    before, started = resident_bytes("VmRSS"), time.process_time()
    queries = _queries(photos)
    situation = queries.situations("report")[0]
    asked = vectors[: len(situation.queries)]
    proof = prove(queries, situation, asked, vectors)
    table = ranking_table(queries, situation, asked, vectors, proof)
    assert len(table) == len(situation.queries)
    return time.process_time() - started, resident_bytes("VmHWM") - before


def _queries(photos: int) -> QuerySet:
    """As many queries as mining draws of a place, each of which all other photos of it answer."""
    config, place = HeldoutConfig(), np.repeat([0, -1], [photos, _DISTRACTORS])
    names = tuple(f"{row:08d}.jpg" for row in range(len(place)))
    numbers: dict[Kind, int] = {
        "whole": 1,
        "crop": config.crops_per_image,
        "retaken": config.retaken_per_image,
    }
    drawn = [
        HeldoutQuery(
            query=names[row],
            kind=kind,
            purpose="report",
            box=(0, 0, 640, 480),
            rotation_deg=0.0,
            seed=0,
            positives=names[:row] + names[row + 1 : photos],
            far=(),
            place=0,
        )
        for row in range(min(config.images_per_place, photos))
        for kind, number in numbers.items()
        for _ in range(number)
    ]
    table = PairTable(
        names=names,
        cluster=place,
        place=place,
        is_val=np.ones(len(place), np.bool_),
        is_choosing=np.zeros(len(place), np.bool_),
        sizes=np.full((len(place), 2), (640, 480)),
        orientation=np.ones(len(place), np.int64),
        positives=Positives(
            query=np.array([0]),
            positive=np.array([1]),
            shared_points=np.array([100]),
            overlap=np.ones(1),
            scale_change=np.ones(1),
            angle_deg=np.zeros(1),
            strategy=np.array(["m3"]),
            weight=np.ones(1),
        ),
    )
    return query_set(drawn, table, Path("nowhere"))
