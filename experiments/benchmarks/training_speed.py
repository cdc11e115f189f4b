"""An epoch against its bare passes, and extraction against bare forward passes and against a plain loop.

Epoch 1 reads its photos, epoch 2 finds them kept; all layers of ResNet18 learn, or the upper half of them.
Tuples are of made-up places, since it takes no time whether they are true. Bare are the passes of the same
pictures, as tensors in memory, by the same layers in as many threads. Extraction is of the photos as they are
and of JPEGs of 12 megapixels made of them. Goals: an epoch at most 1.15 times its passes; extraction at most
1.1 times bare forward passes, and at least twice as quick as one photo after the other, decoded in full.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import KeepConfig, keep_inputs
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.epoch import Epoch
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.learning.state import start
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.settings.loop_config import LoopConfig
from experiments.benchmarks.contenders.bare_passes import Bare, Recorded, extract_plainly, levels_of
from experiments.benchmarks.material.sample import names_below, photo_files
from experiments.benchmarks.measuring.measure import (
    Claim,
    Took,
    add_kind,
    arguments,
    conclude,
    median,
    print_times,
    take_turns,
    timed,
)
from groundwork.executors import usable_cores
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable

_EPOCH_LIMIT, _FORWARD_LIMIT, _PLAIN_LIMIT = 1.15, 1.1, 2.0
_OF_A_PLACE = 4
# Of the trunk's weights, those that do not learn.
_FROZEN = {"whole trunk": 0.0, "upper half": 0.5}
_PARTS = (*_FROZEN, "extraction")

Times = dict[str, list[tuple[Any, Took]]]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="all unless given")
    parser.add_argument("--count", type=int, default=120, help="photos of the epochs [%(default)s]")
    parser.add_argument("--tuples", type=int, default=20, help="of an epoch [%(default)s]")
    parser.add_argument("--side", type=int, default=362, help="of photos to learn from, px [%(default)s]")
    parser.add_argument("--extracted", type=int, default=24, help="photos [%(default)s]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[362, 1024], help="of them, px [%(default)s]")
    parser.add_argument("--megapixels", type=int, default=12, help="of large JPEGs [%(default)s]")
    parser.add_argument("--repeats", type=int, default=2, help="rounds [%(default)s]")
    add_kind(parser)
    given = parser.parse_args(words)
    times: Times = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.repeats):
            for name, frozen in _FROZEN.items():
                if name not in given.parts:
                    continue
                folder = Path(scratch) / f"{name}-{number}"
                _add(times, {f"{name}, {what}": one for what, one in _epochs(given, frozen, folder).items()})
        if "extraction" in given.parts:
            _extraction(given, Path(scratch) / "large", times)
    print_times(times)
    return conclude(_claims(times, given.kind))


def _add(times: Times, found: Mapping[str, Took]) -> None:
    for name, took in found.items():
        times.setdefault(name, []).append((None, took))


def _epochs(given: argparse.Namespace, frozen: float, folder: Path) -> dict[str, Took]:
    """What two epochs took, and the bare passes of each."""
    config = LoopConfig(
        image_size=given.side,
        tuples_per_epoch=given.tuples,
        pool_size=given.count,
        frozen_share=frozen,
    )
    network = _network()
    num_layers = frozen_layers(network, config)
    inputs = Recorded(**vars(keep_inputs(folder, network, num_layers, KeepConfig())))
    training = Training(
        network=network,
        collection=_collection(given.photos, given.count),
        config=config,
        seed=0,
        workers=usable_cores(),
        inputs=inputs,
    )
    state, found = start(training), {}
    for number in (1, 2):
        print(f"epoch {number} of {folder.name} ...", file=sys.stderr)
        epoch, known = Epoch(training=training, state=state, number=number), set(inputs.asked)
        inputs.calls.clear()
        _, found[f"epoch {number}"] = timed(partial(epoch.learn, _nothing, _nothing))
        new = [request for request in inputs.asked if request not in known]
        found[f"passes of epoch {number}"] = _passes(training, inputs, new if num_layers else [])
    return found


def _passes(training: Training, inputs: Recorded, new: Sequence[ImageRequest]) -> Took:
    """The bare passes of an epoch, of which the layers that stay had not seen the `new` requests."""
    mined, learned = inputs.calls
    bare = Bare(training.network, inputs.num_layers, training.look)
    size = 2 + training.config.negatives.num_negatives
    pool = bare.ready(mined, alone=not inputs.num_layers)
    tuples = [bare.ready(learned[at : at + size]) for at in range(0, len(learned), size)]
    pictures = levels_of(new, training.look.image_size)

    def passes() -> None:
        bare.below(pictures)
        bare.describe(pool)
        bare.learn(tuples, training.config.margin)

    return timed(passes)[1]


def _extraction(given: argparse.Namespace, folder: Path, times: Times) -> None:
    photos = photo_files(given.photos)[: given.extracted]
    network = _network().to(memory_format=torch.channels_last).eval()
    large = _enlarged(photos, folder, given.megapixels)
    for kind, paths in (("photos", photos), (f"{given.megapixels} megapixels", large)):
        for size in given.sizes:
            found = take_turns(_extractors(network, paths, size), given.repeats)
            times |= {f"{kind}, {size} px, {name}": rounds for name, rounds in found.items()}


def _extractors(
    network: RetrievalNetwork, paths: Sequence[Path], size: int
) -> dict[str, Callable[[], object]]:
    requests, config = [ImageRequest(path=path) for path in paths], ExtractConfig(image_size=size)
    bare = Bare(network, 0, config.look)
    ready = bare.ready([(levels,) for levels in levels_of(requests, size)], alone=True)
    return {
        "extraction": lambda: describe(network, requests, config, workers=usable_cores()),
        "passes": lambda: bare.describe(ready),
        "one by one": lambda: extract_plainly(network, paths, size),
    }


def _claims(times: Times, kind: str) -> list[Claim]:
    """A ratio for each contender of ours that the table has."""
    seconds = {name: median(rounds, kind) for name, rounds in times.items()}
    claims = []
    for name in seconds:
        kept, _, what = name.rpartition(", ")
        passes = seconds.get(f"{kept}, passes{'' if what == 'extraction' else f' of {what}'}")
        if passes is None:
            continue
        limit = _FORWARD_LIMIT if what == "extraction" else _EPOCH_LIMIT
        ratio = seconds[name] / passes
        claims.append(Claim(what=f"{name} over its passes", measured=ratio, limit=limit, at_least=False))
        if what == "extraction":
            ratio = seconds[f"{kept}, one by one"] / seconds[name]
            said = f"{kept}, one by one over extraction"
            claims.append(Claim(what=said, measured=ratio, limit=_PLAIN_LIMIT, at_least=True))
    return claims


def _network() -> RetrievalNetwork:
    return build(NetworkConfig(backbone="resnet18"), "random", seed=0)


def _collection(photos: Path, count: int) -> Collection:
    """The first photos of a folder, each few of them a place in which all match."""
    names = tuple(names_below(photos)[:count])
    place = np.arange(len(names)) // _OF_A_PLACE
    query, positive = np.nonzero((place[:, None] == place) & ~np.eye(len(names), dtype=bool))
    ones = np.ones(len(query))
    sizes = []
    for name in names:
        with Image.open(photos / name) as image:
            sizes.append(image.size)
    table = PairTable(
        names=names,
        cluster=place,
        place=place,
        is_val=np.zeros(len(names), np.bool_),
        is_choosing=np.zeros(len(names), np.bool_),
        sizes=np.array(sizes),
        orientation=np.ones(len(names), np.int64),
        positives=Positives(
            query=query,
            positive=positive,
            shared_points=np.full(len(query), 30),
            overlap=ones,
            scale_change=ones,
            angle_deg=ones,
            strategy=np.full(len(query), "m3"),
            weight=ones,
        ),
    )
    return Collection(photos=photos, table=table)


def _enlarged(photos: Sequence[Path], folder: Path, megapixels: int) -> list[Path]:
    folder.mkdir()
    side = round((megapixels * 1e6 / 12) ** 0.5)
    made = []
    for number, path in enumerate(photos):
        made.append(folder / f"{number:04d}.jpg")
        with Image.open(path) as image:
            large = image.convert("RGB").resize((4 * side, 3 * side), Image.Resampling.LANCZOS)
        large.save(made[-1], quality=90)
    return made


def _nothing(*_: object) -> None:
    """What is to be done between steps."""


if __name__ == "__main__":
    sys.exit(main())
