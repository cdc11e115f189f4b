"""Stage: 3D models -> positives, clusters, places, split and held-out queries; counts what was dropped."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from pydantic import Field

from groundwork.digest import sha256_of
from groundwork.files import read_json, write_json
from groundwork.keys import key_of, key_of_table
from groundwork.photo_source import SOURCE, read_source, write_source
from groundwork.records import load_done, mark_done
from pairs.descriptors import descriptors_key
from pairs.heldout import (
    HeldoutConfig,
    HeldoutQuery,
    Purpose,
    TestPlace,
    draw_queries,
    read_heldout,
    write_heldout,
)
from pairs.image_pairs import Candidates, Positives
from pairs.pair_table import PairTable, read_candidates, read_pair_table, write_candidates, write_pair_table
from pairs.positives import PositivesConfig, choose_positives
from pairs.reconstruction import Reconstruction, read_reconstruction
from pairs.same_place_negatives import ApartPairs
from pairs.shortage import require_positives
from pairs.split import SplitConfig, choose_choosing_places, choose_val_places
from sfm.model import load_model

logger = logging.getLogger(__name__)

_OUTPUTS = (
    "images.parquet",
    "positives.parquet",
    "apart.parquet",
    "shared_points.npy",
    "candidates.parquet",
    "heldout.parquet",
    SOURCE,
    "stats.json",
)


class MineConfig(PositivesConfig):
    """What makes a positive, and what is held out."""

    apart_per_query: int = Field(
        default=0,
        ge=0,
        description="images of the query's own model, proven to show something else, that may be negatives",
    )
    split: SplitConfig = SplitConfig()
    heldout: HeldoutConfig = HeldoutConfig()
    seed: int = Field(default=0, ge=0, description="of the split and of the held-out queries")


@dataclass(frozen=True, kw_only=True, eq=False)
class MiningResult:
    """What `mine` found; `stats` is the content of stats.json, its `dropped` the counts by reason."""

    table: PairTable
    candidates: Candidates
    heldout: tuple[HeldoutQuery, ...]
    stats: Mapping[str, Any]


def mine(sfm_dir: Path, out: Path, config: MineConfig) -> MiningResult:
    """Mine what a reconstruction in `sfm_dir` proves; write it to `out`, or read it when it is there already.

    FileNotFoundError when there is no finished reconstruction; ValueError when fewer than two of its places
    have positives, with the cause, and when its files contradict each other. m1 needs descriptors: see
    `load_descriptors`.
    """
    started = time.monotonic()
    reconstruction = read_reconstruction(sfm_dir)
    key = _key(sfm_dir, reconstruction.model_files, config)
    if load_done(out, "mine", key) is not None:
        return _read_result(out)

    candidates, merged = reconstruction.candidates()
    selection = choose_positives(reconstruction, candidates, config)
    apart = reconstruction.apart(config.apart_per_query, config.seed)
    # What lies apart in one model may be seen together in another.
    apart = apart.without(candidates).without(selection.positives)
    require_positives(reconstruction, candidates, selection, one_place_will_do=len(apart) > 0)
    table = _tabulate(reconstruction.images, selection.positives, apart, config)
    table = replace(table, shared_points=reconstruction.shared_points(table.positives))
    heldout, given_up = _draw_heldout(table, candidates, reconstruction, config)
    dropped = {**reconstruction.dropped, **_unused(table), **merged, **selection.dropped, **given_up}

    write_pair_table(table, out)
    write_candidates(candidates, table.names, out)
    write_heldout(heldout, out / "heldout.parquet")
    content = key_of_table(reconstruction.images[["name", "content"]])
    write_source(read_source(sfm_dir).model_copy(update={"content": content}), out)
    seconds = time.monotonic() - started
    stats = _stats(table, candidates, heldout, dropped) | {"seconds": round(seconds, 3)}
    write_json(out / "stats.json", stats)
    mark_done(out, "mine", key, seconds=seconds, facts=stats, outputs=[out / name for name in _OUTPUTS])
    return MiningResult(table=table, candidates=candidates, heldout=tuple(heldout), stats=stats)


def _key(sfm_dir: Path, model_files: Sequence[Path], config: MineConfig) -> str:
    # Content, not the records of reconstruction: redoing it with the same result must not redo this.
    inputs = [sfm_dir / "images.parquet", sfm_dir / SOURCE, *model_files]
    digests = {path.relative_to(sfm_dir).as_posix(): sha256_of(path) for path in inputs}
    versions = [version(package) for package in ("cnnimretrieval", "numpy", "scipy", "pandas")]
    # The descriptors themselves decide, not where they lie.
    settings = config.model_copy(update={"descriptors": None})
    return key_of("mine", settings, descriptors_key(config.descriptors), digests, versions)


def _tabulate(images: pd.DataFrame, positives: Positives, apart: ApartPairs, config: MineConfig) -> PairTable:
    place, cluster = images["place"].to_numpy(), images["model"].to_numpy()
    with_pairs = np.unique(place[positives.query])
    registered = place[(cluster >= 0) & np.isin(place, with_pairs)]
    rng = np.random.default_rng(config.seed)
    reported = choose_val_places(registered, config.split, rng, one_place_will_do=len(apart) > 0)
    choosing = np.empty(0, np.int64)
    loose = np.zeros(len(place), np.bool_)
    if not len(reported):
        logger.warning(
            "split: one place, so nothing is held out; scores will be of the place that is trained on"
        )
    else:
        choosing = choose_choosing_places(registered, reported, config.split, rng)
        loose[_share_of(np.flatnonzero(place < 0), config.split.val_share, rng)] = True
        if not len(choosing) and config.split.choosing_share:
            logger.warning(
                "split: too few places to set some aside to choose by; what is chosen is chosen on the "
                "places that are reported, which flatters it a little"
            )
    return PairTable(
        names=tuple(images["name"]),
        cluster=cluster,
        place=place,
        is_val=np.isin(place, [*reported, *choosing]) | loose,
        is_choosing=np.isin(place, choosing),
        sizes=images[["width", "height"]].to_numpy(),
        orientation=images["orientation"].to_numpy(),
        positives=positives,
        apart=apart,
    )


def _share_of(rows: Int[np.ndarray, " u"], share: float, rng: np.random.Generator) -> Int[np.ndarray, " s"]:
    chosen: Int[np.ndarray, " s"] = rng.permutation(rows)[: round(share * len(rows))]
    return chosen


def _draw_heldout(
    table: PairTable, candidates: Candidates, reconstruction: Reconstruction, config: MineConfig
) -> tuple[list[HeldoutQuery], Counter[str]]:
    queries: list[HeldoutQuery] = []
    dropped: Counter[str] = Counter()
    files_of_place: dict[int, list[Path]] = {}
    for path, _, rows in reconstruction.models():
        files_of_place.setdefault(int(table.place[rows[0]]), []).append(path)
    copies = reconstruction.copies_by_name() if config.near_copies else {}
    far = _far_views(candidates, table.names, config.heldout.far_angle_deg)
    for place in np.unique(table.place[table.positives.query]).tolist():
        models = [load_model(path) for path in files_of_place[place]]
        drawn, given_up = draw_queries(
            TestPlace(
                number=place,
                models=models,
                photos=reconstruction.images[table.place == place],
                purpose=_purpose(table, place),
                copies=copies,
                far=far,
            ),
            config.seed,
            config.heldout,
        )
        queries += drawn
        dropped += given_up
    return queries, dropped


def _purpose(table: PairTable, place: int) -> Purpose | None:
    """Of the place's queries; with nothing held out the only place is tested on itself."""
    members = table.place == place
    if table.is_choosing[members].any():
        return "choose"
    return "report" if table.is_val[members].any() or not table.is_val.any() else None


def _far_views(
    candidates: Candidates, names: Sequence[str], far_angle_deg: float
) -> dict[str, frozenset[str]]:
    """For each image those with which it shares points, seen from far another side."""
    is_far = (candidates.angle_deg >= far_angle_deg) & np.isfinite(candidates.angle_deg)
    found: dict[str, set[str]] = {}
    for one, other in zip(
        candidates.query[is_far].tolist(), candidates.positive[is_far].tolist(), strict=True
    ):
        found.setdefault(names[one], set()).add(names[other])
    return {name: frozenset(others) for name, others in found.items()}


def _unused(table: PairTable) -> dict[str, int]:
    """Usable images that are no query, by reason."""
    is_query = np.zeros(table.num_images, dtype=bool)
    is_query[table.positives.query] = True
    loose, registered = table.place < 0, table.cluster >= 0
    return {
        "image: matched no other": int(loose.sum()),
        "image: in no model of its place": int((~loose & ~registered).sum()),
        "image: registered without a positive": int((registered & ~is_query).sum()),
    }


def _stats(
    table: PairTable, candidates: Candidates, heldout: Sequence[HeldoutQuery], dropped: Mapping[str, int]
) -> dict[str, Any]:
    sides = {}
    for split, of_side in (("train", ~table.is_val), ("val", table.is_val)):
        positives = table.positives.take(of_side[table.positives.query])
        sides[split] = {
            "images": int(of_side.sum()),
            "registered": int((of_side & (table.cluster >= 0)).sum()),
            "places": len(np.unique(table.place[of_side & (table.place >= 0)])),
            "queries": len(np.unique(positives.query)),
            "positives": len(positives),
        }
    return {
        "images": table.num_images,
        "queries": sides["train"]["queries"] + sides["val"]["queries"],
        "positives": len(table.positives),
        "apart": len(table.apart),
        "candidates": len(candidates),
        "clusters": len(np.unique(table.cluster[table.cluster >= 0])),
        "places": len(np.unique(table.place[table.place >= 0])),
        "split": sides,
        "heldout": dict(Counter(query.kind for query in heldout)),
        "dropped": dict(dropped),
    }


def _read_result(out: Path) -> MiningResult:
    table = read_pair_table(out)
    return MiningResult(
        table=table,
        candidates=read_candidates(out, table.names),
        heldout=read_heldout(out / "heldout.parquet"),
        stats=read_json(out / "stats.json"),
    )
