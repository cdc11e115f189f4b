"""A published row, repeated: train on published pairs, whiten, score on benchmarks, compare."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.downloads.catalogue import find
from cnnimretrieval.downloads.download import is_present
from cnnimretrieval.evaluation.datasets import read_benchmark
from cnnimretrieval.evaluation.evaluate import EvaluationConfig, evaluate
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from cnnimretrieval.training.fine_tune import fine_tune
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.training.sources import initial_network
from cnnimretrieval.whitening.apply import Whitening
from cnnimretrieval.whitening.estimates import learn_whitening
from experiments import manifest
from experiments.exit_codes import UsageFault
from experiments.settings.recipe import Recipe, Target
from experiments.settings.run_config import RunConfig
from groundwork.files import read_json, write_json
from groundwork.keys import key_of
from groundwork.lock import hold
from groundwork.records import load_done, mark_done
from groundwork.settings import Values
from pairs.adopt import adopt
from pairs.retrieval_sfm_files import read_whitening_pairs, tell

logger = logging.getLogger(__name__)

FILE = "reproduction.json"
PAIRS, MODEL, NETWORK, SCORES = "pairs", "model", "network", "scores"
WHITENING, MULTI_SCALE_WHITENING = "whitening", "whitening_multi_scale"


class Comparison(Values):
    """One score beside the published one, in points of mAP; `published` is None where there is none."""

    key: str
    map: float
    published: float | None

    @property
    def difference(self) -> float | None:
        """By how much ours is higher."""
        return None if self.published is None else self.map - self.published


class Reproduction(Values):
    """What repeating a row gave, in WORK/reproduction.json."""

    protocol: str
    title: str
    source: str
    tolerance: float | None
    scores: tuple[Comparison, ...]
    config: RunConfig
    recipe: Recipe
    packages: dict[str, str]
    machine: manifest.Machine
    note: str = Field(default="", description="what the protocol says besides")

    @property
    def is_reached(self) -> bool:
        """Whether every published score is reached within the tolerance."""
        differences = [abs(one.difference) for one in self.scores if one.difference is not None]
        return bool(differences) and self.tolerance is not None and max(differences) <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is repeated: a protocol's settings and its sections [published] and [target]."""

    protocol: str
    config: RunConfig
    recipe: Recipe
    target: Target | None


def repeat(row: Row, data: Path, work: Path, *, device: str, workers: int) -> Reproduction:
    """Repeat `row` with the published files below `data`, all in `work`; what is done there is kept.

    Raises:
        UsageFault: published files that are not there; the message says how to get them.
        ValueError, OSError: files or photos that are not as they should be.

    """
    require_data(row.recipe, data)
    with hold(work):
        network = _network(row, data, work, device, workers)
        found: dict[str, float] = {}
        for name in row.recipe.benchmarks:
            found |= _scores(network, row.recipe, name, data, work, device=device, workers=workers)
        result = _compared(row, found, device)
        write_json(work / FILE, result.model_dump(mode="json"))
    return result


def require_data(recipe: Recipe, data: Path) -> None:
    """UsageFault with the command to run unless everything that `recipe` names is below `data`."""
    missing = [name for name in recipe.downloads if not is_present(find(name), data)]
    if missing:
        raise UsageFault(
            f"--data {data}: expected {', '.join(missing)}, got none; "
            f"run `cnnimretrieval download {' '.join(missing)} --data {data}`"
        )


def as_table(result: Reproduction) -> str:
    """Ours and the published scores, and whether they agree."""
    lines = [result.title or result.protocol, f"{'':<18}{'ours':>7}{'published':>11}{'difference':>12}"]
    for one in result.scores:
        published = "-" if one.published is None else f"{one.published:.1f}"
        difference = "-" if one.difference is None else f"{one.difference:+.2f}"
        lines.append(f"{one.key:<18}{one.map:>7.2f}{published:>11}{difference:>12}")
    if result.tolerance is not None and any(one.published is not None for one in result.scores):
        verdict = "reached" if result.is_reached else "NOT reached"
        lines.append(f"{verdict} within {result.tolerance:g} points of mAP; published: {result.source}")
    return "\n".join([*lines, *([result.note] if result.note else [])])


def _network(row: Row, data: Path, work: Path, device: str, workers: int) -> RetrievalNetwork:
    recipe, config = row.recipe, row.config
    if recipe.network:
        return load(_file(recipe.network, data))
    weights = str(_file(recipe.trunk, data)) if recipe.trunk else config.weights
    train = _with_layers(config.train, recipe, data)
    if recipe.pairs:
        folder = data / "train" / recipe.pairs
        pickle = folder / f"{recipe.pairs}.pkl"
        adopt(pickle, folder / "ims", work / PAIRS, drop_repeats=recipe.drop_repeats)
        # The row is about the trained network, whatever held-out places say of it.
        train = train.model_copy(update={"keep": "fine_tuned"})
        fine_tune(work / PAIRS, work / MODEL, train, weights=weights, device=device, workers=workers)
        network = load(work / MODEL)
    else:
        network = initial_network(train, weights)
    if recipe.whitening:
        _whiten(network, row, data, work, device=device, workers=workers)
    save(network, work / NETWORK)
    return network


def _with_layers(train: TrainConfig, recipe: Recipe, data: Path) -> TrainConfig:
    """The settings with the published files that layers start from, where the settings name no other."""
    files = {str(name): _file(layer, data) for name, layer in recipe.layers.items()}
    files |= {str(name): path for name, path in train.layers.files.items()}
    return train.model_copy(update={"layers": train.layers.model_copy(update=files)})


def _whiten(
    network: RetrievalNetwork, row: Row, data: Path, work: Path, *, device: str, workers: int
) -> None:
    """Learn from the published pairs the whitening at the tested scales and, if they are several, at one too.

    The published networks bring both. Photos are described as those of the benchmarks are.
    """
    learn = partial(_whitening, network, row, data, device=device, workers=workers)
    scales = row.recipe.scales
    if len(scales) > 1:
        network.multi_scale_whitening = learn(scales, work / MULTI_SCALE_WHITENING)
        scales = (1.0,)
    network.whitening = learn(scales, work / WHITENING)


def _whitening(
    network: RetrievalNetwork,
    row: Row,
    data: Path,
    scales: tuple[float, ...],
    out: Path,
    *,
    device: str,
    workers: int,
) -> Whitening:
    recipe, settings = row.recipe, row.config.train.whitening
    folder = data / "train" / recipe.whitening
    pairs = read_whitening_pairs(folder / f"{recipe.whitening}-whiten.pkl")
    photos = folder / "ims"
    requests = [ImageRequest(path=photos / name) for name in pairs.names]
    config = ExtractConfig(image_size=recipe.image_size, scales=scales)
    store = extract(network, requests, photos, out, config, whiten=False, device=device, workers=workers)
    if len(store.rejected):
        unread = set(store.rejected["name"])
        pairs = pairs.only(np.array([name not in unread for name in pairs.names]), "cannot be read")
        tell(photos, pairs.told)
    return learn_whitening(
        store.vectors,
        pairs.query,
        pairs.positive,
        dim=settings.dim,
        shrinkage=settings.given.shrinkage,
        collection_share=settings.given.collection,
    )


def _scores(
    network: RetrievalNetwork,
    recipe: Recipe,
    name: str,
    data: Path,
    work: Path,
    *,
    device: str,
    workers: int,
) -> Mapping[str, float]:
    """The mAPs in % of a benchmark, by its name or NAME.PROTOCOL; kept in WORK/scores/NAME.json."""
    benchmark = read_benchmark(name, data)
    out, file = work / SCORES, f"{name}.json"
    whitening = network.whitening_for(recipe.scales)
    axes = "" if whitening is None else key_of(*map(_digest, (whitening.mean, whitening.projection)))
    key = key_of(name, network.fingerprint(), axes, recipe, list(benchmark.database))
    if load_done(out, name, key) is None:
        config = EvaluationConfig(extraction=_extraction(recipe))
        result = evaluate(network, benchmark, config, device=device, workers=workers)
        scores = {
            f"{name}.{protocol}".rstrip("."): 100 * found.mean_average_precision
            for protocol, found in result.scored.scores.items()
        }
        write_json(out / file, scores)
        mark_done(out, name, key, outputs=[out / file])
        logger.info("%s: %s", name, ", ".join(f"{one} {value:.2f}" for one, value in scores.items()))
    kept: dict[str, float] = read_json(out / file)
    return kept


def _compared(row: Row, found: Mapping[str, float], device: str) -> Reproduction:
    published = row.target.scores if row.target else {}
    return Reproduction(
        protocol=row.protocol,
        title=row.target.title if row.target else "",
        source=row.target.source if row.target else "",
        tolerance=row.target.tolerance if row.target else None,
        scores=tuple(
            Comparison(key=key, map=value, published=published.get(key)) for key, value in found.items()
        ),
        config=row.config,
        recipe=row.recipe,
        packages=manifest.installed(),
        machine=manifest.this_machine(device),
        note=row.target.note if row.target else "",
    )


def _extraction(recipe: Recipe) -> ExtractConfig:
    return ExtractConfig(image_size=recipe.image_size, scales=recipe.scales)


def _file(name: str, data: Path) -> Path:
    """The one file of a published network, trunk or layer."""
    (file,) = find(name).files
    return data / file.path


def _digest(array: np.ndarray) -> str:
    return key_of(np.ascontiguousarray(array).tobytes().hex())
