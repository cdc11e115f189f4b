"""The collection at a glance, as the search page has it: places, near-copies and a map of the photos."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.overview import groups, layout, plot
from experiments.overview.groups import Group
from experiments.report.reading import RunFiles
from experiments.report.thumbnails import Thumbnails
from sfm.numbering import COPY_OF

logger = logging.getLogger(__name__)
PHOTOS_A_GROUP, MOST_PLACES, MOST_COPIES = 10, 60, 40
# Places that are shown without a click.
OPEN_PLACES = 12
# Small pictures of low quality: a thousand photos have to stay below the size of a mail.
_LONGEST_PX, _QUALITY = 112, 62
_NO_MAP = "There is no map: the descriptors that training kept are not there, or of other photos."


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What the page shows; pictures by the row of `names`."""

    names: tuple[str, ...]
    pictures: dict[int, str]
    places: tuple[Group, ...]
    copies: tuple[Group, ...]
    map: plot.Drawn | None


def at_a_glance(files: RunFiles) -> dict[str, Any]:
    """Nothing where the photos of the run, or what became of them, are not known."""
    if files.images is None or files.photos is None or not {"place", "reason"} <= set(files.images):
        return {"glance": None, "no_map": "", "most_shown": PHOTOS_A_GROUP}
    names = tuple(files.images["name"].tolist())
    row_of = {name: row for row, name in enumerate(names)}
    places = groups.places(zip(names, files.images["place"].tolist(), strict=True), row_of)
    copies = groups.numbered(_copies(files.images, row_of))
    found = _descriptors(files)
    drawn = None
    if found is not None:
        described, vectors = found
        rows = np.array([row_of.get(name, -1) for name in described], np.int64)
        used = plot.spread(np.flatnonzero(rows >= 0))
        positions, method = layout.lay_out(np.asarray(vectors)[used])
        drawn = plot.draw(plot.Map(rows=rows[used], positions=positions, method=method), places)
    shown = Glance(
        names=names,
        pictures=_pictures(files, names, places[:MOST_PLACES], copies[:MOST_COPIES], drawn),
        places=places,
        copies=copies,
        map=drawn,
    )
    return {"glance": shown, "no_map": "" if drawn else _NO_MAP, "most_shown": PHOTOS_A_GROUP}


def _copies(images: pd.DataFrame, row_of: dict[str, int]) -> list[list[int]]:
    """Rows of each group of near-copies that the scan found, the one that was used first."""
    found: dict[int, list[int]] = {}
    for name, reason in zip(images["name"], images["reason"], strict=True):
        original = row_of.get(reason.removeprefix(COPY_OF)) if reason.startswith(COPY_OF) else None
        if original is not None:
            found.setdefault(original, [original]).append(row_of[name])
    return list(found.values())


def _descriptors(files: RunFiles) -> tuple[Sequence[str], Float[np.ndarray, "n d"]] | None:
    """Names and whitened descriptors of the photos by the network of the run, where training kept them."""
    model, pairs = files.work / "model", files.work / "pairs"
    if not (model / "network.json").is_file() or not (pairs / "heldout.parquet").is_file():
        return None
    # It comes with torch, which the rest of a report does without.
    from cnnimretrieval.networks.open import load
    from cnnimretrieval.training.proof.calibrating import described_run
    from cnnimretrieval.whitening.apply import apply

    try:
        network = load(str(model))
        run = described_run(pairs, model, network, "cpu", 0)
        vectors = run.known_database(network)
    except (OSError, ValueError) as error:
        logger.warning("%s; the report has no map of the photos", error)
        return None
    if vectors is None:
        return None
    whitening = network.whitening_for((1.0,))
    whitened = np.asarray(vectors) if whitening is None else apply(whitening, np.asarray(vectors))
    return run.collection.table.names, whitened


def _pictures(
    files: RunFiles,
    names: Sequence[str],
    places: Sequence[Group],
    copies: Sequence[Group],
    drawn: plot.Drawn | None,
) -> dict[int, str]:
    """Of the rows that are shown, as far as their photos can be read."""
    thumbnails = Thumbnails(files.photos, longest_px=_LONGEST_PX, quality=_QUALITY)
    rows = [row for group in (*places, *copies) for row in group.rows[:PHOTOS_A_GROUP]]
    rows += [] if drawn is None else [dot.row for dot in drawn.pictures]
    made = {row: thumbnails.photo(names[row]) for row in dict.fromkeys(rows)}
    return {row: uri for row, uri in made.items() if uri is not None}
