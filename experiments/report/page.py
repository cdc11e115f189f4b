"""Writes WORK/report: index.html, one page about a run that opens at once, and models.html beside it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report import figures, geometry, glance, queries, reconstruction, sheets, tables, viewer
from experiments.report.headline import FINE_TUNED, headline
from experiments.report.reading import Json, RunFiles, read_run
from experiments.report.thumbnails import Thumbnails
from experiments.report.upright import upright
from experiments.report.viewer import DrawnModel
from experiments.scoreboard import KINDS, ROWS
from groundwork.files import atomic_path
from sfm.model import Model

# A figure is about 20 kB, a model in 3D at most 100 kB: this many keep the pages small.
_MOST_MODELS = 60
_CHOSEN_HERE = "Where the best network is kept, these very scores chose it, which flatters it a little."
_MOST_ROWS = 500


def write_report(work: Path) -> Path:
    """Write the pages from the files in `work` and the photos they name; returns the path of index.html.

    Neither needs another file or the network, except for the links between them. Parts of the run that are
    not there are named on the page. FileNotFoundError when `work` holds no run.
    """
    files = read_run(work)
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(__file__).parents[1]]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [_stand_up(name, model, files) for name, model in files.models[:_MOST_MODELS]]
    text = environment.get_template("index.html").render(**_content(files, drawn))
    report = work / "report"
    if drawn:
        viewer.write_viewer(drawn, report, environment)
    else:
        (report / viewer.NAME).unlink(missing_ok=True)
    path = report / "index.html"
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _content(files: RunFiles, drawn: Sequence[DrawnModel]) -> dict[str, Any]:
    thumbnails = Thumbnails(files.photos)
    return {
        "headline": headline(files),
        "missing": files.missing,
        "cards": _cards(files),
        **_counts(files),
        **_reconstruction(files),
        **_scores(files),
        "models": [(one, figures.model_figure(one.view)) for one in drawn],
        "num_models": len(files.models),
        **glance.at_a_glance(files),
        "most_places": glance.MOST_PLACES,
        "open_places": glance.OPEN_PLACES,
        "most_copies": glance.MOST_COPIES,
        **_pairs(files, thumbnails),
        **_rankings(files, thumbnails),
        "manifest": files.manifest,
        "settings": list(tables.flattened(files.manifest["config"])) if files.manifest else [],
    }


def _cards(files: RunFiles) -> list[tuple[str, str]]:
    """Number and what it counts, from photos to pairs."""
    cards = []
    if files.sfm:
        cards += [(files.sfm["images"], "photos found"), (files.sfm["registered"], "registered")]
        cards += [(files.sfm["places"], "places"), (files.sfm["models"], "3D models")]
    if files.pairs:
        cards += [
            (files.pairs["queries"], "training and test queries"),
            (files.pairs["positives"], "positives"),
        ]
    return [(f"{number:,}", what) for number, what in cards]


def _counts(files: RunFiles) -> dict[str, Any]:
    return {
        "photo_counts": tables.photo_counts(files.sfm) if files.sfm else None,
        **_not_used(files),
        "photo_reasons": tables.reasons(files.sfm.get("reasons", {})) if files.sfm else None,
        "dropped": tables.reasons(files.pairs.get("dropped", {})) if files.pairs else None,
        "split": files.pairs.get("split", {}) if files.pairs else {},
    }


def _not_used(files: RunFiles) -> dict[str, Any]:
    """Files that took no part, by name, with the reason."""
    images = files.images
    if images is None or not {"status", "reason"} <= set(images):
        return {"not_used": (), "num_not_used": 0}
    left = images[images["status"].isin(["rejected", "duplicate"])].sort_values("name")
    shown = left.head(_MOST_ROWS)
    return {"not_used": list(zip(shown["name"], shown["reason"], strict=True)), "num_not_used": len(left)}


def _reconstruction(files: RunFiles) -> dict[str, Any]:
    stages = reconstruction.stage_rows(files)
    described = pd.DataFrame() if files.described is None else files.described
    header, rows = reconstruction.model_rows(described, _MOST_ROWS)
    return {
        "stages": stages,
        "longest": max((row.seconds for row in stages), default=0.0),
        "stage_facts": reconstruction.stage_facts(files.sfm) if files.sfm else [],
        "yields": reconstruction.yield_rows(files.tried, files.trusted)
        if files.tried is not None and files.trusted is not None
        else [],
        "model_measures": reconstruction.model_measures(described),
        "model_ways": tables.reasons(Counter(described["way"])) if "way" in described else [],
        "model_header": header,
        "model_rows": rows,
        "described_models": len(described),
    }


def _scores(files: RunFiles) -> dict[str, Any]:
    train, evaluation = files.train or {}, files.evaluation or {}
    epochs = train.get("epochs", [])
    return {
        "kinds": [KINDS[kind] for kind in tables.score_kinds(evaluation)] if evaluation else [],
        "score_rows": tables.score_rows(evaluation, train.get("kept")) if evaluation else (),
        **_situations(evaluation, train),
        "round_rows": tables.round_rows(files.rounds, FINE_TUNED[-1]),
        "round_network": ROWS[FINE_TUNED[-1]],
        "training_figure": figures.training_figure(epochs) if epochs else None,
        "size_figure": figures.size_figure(train["curve"]) if train.get("curve") else None,
    }


def _situations(evaluation: Json, train: Json) -> dict[str, Any]:
    """The situations that all rows were scored in, and what the row that is kept was chosen by."""
    kind = tables.score_kinds(evaluation)[0] if evaluation else ""
    names, rows = tables.situation_rows(evaluation, train.get("kept"), kind)
    aside = train.get("chosen_on") == "places set aside"
    chosen = "Where the best network is kept, other places chose it." if aside else _CHOSEN_HERE
    return {
        "situations": names,
        "situation_rows": rows,
        "situation_kind": KINDS.get(kind, ""),
        "chosen_on": chosen,
    }


def _stand_up(name: str, model: Model, files: RunFiles) -> DrawnModel:
    known: dict[str, int] = {}
    if files.images is not None:
        known = dict(zip(files.images["name"], files.images["orientation"], strict=True))
    orientations = np.array([known.get(name, 1) for name in model.names])
    return DrawnModel(name=name, model=model, view=upright(model, orientations))


def _pairs(files: RunFiles, thumbnails: Thumbnails) -> dict[str, Any]:
    if files.positives is None or files.positives.empty:
        return {"tuples": (), "geometry_figure": None, "negatives": ()}
    clusters = {name: row for row, (_, model) in enumerate(files.models) for name in model.names}
    return {
        "tuples": sheets.tuple_sheet(files.positives, files.tuples, clusters, thumbnails),
        "geometry_figure": figures.geometry_figure(files.positives),
        "negatives": sheets.negatives_sheet(files.first_tuples, files.tuples, thumbnails),
    }


def _rankings(files: RunFiles, thumbnails: Thumbnails) -> dict[str, Any]:
    if files.rankings is None or files.rankings.empty:
        empty = {"rankings": (), "after": "", "place_rows": (), "query_figure": None, "difference": None}
        return {**empty, **geometry.reranking(files, "", thumbnails)}
    kept = (files.train or {}).get("kept")
    # Off the shelf against itself would show nothing: then the best that fine-tuning had to offer.
    after = kept if kept in FINE_TUNED else "fine_tuned_whitened"
    both = queries.paired(files.rankings, after)
    precisions = (both[column].tolist() for column in ("average_precision", "average_precision_after"))
    return {
        "rankings": sheets.ranking_sheet(files.rankings, after, thumbnails),
        "after": ROWS[after],
        "place_rows": queries.place_rows(both),
        "query_figure": figures.query_figure(*precisions) if len(both) else None,
        "difference": queries.difference(both),
        **geometry.reranking(files, after, thumbnails),
    }
