"""What proves rankings of a run by geometry: the local head of its network where it has one, else SIFT."""

import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from experiments.report.reading import RunFiles
from experiments.report.thumbnails import Thumbnails
from groundwork.files import read_json

if TYPE_CHECKING:  # it comes with torch, which the rest of a report does without
    from experiments.report.shown import Finder

logger = logging.getLogger(__name__)
# Up to 724 px: a quarter of the time that all scales of `extract --local` take.
_SCALES = (0.25, 0.3536, 0.5, 0.7071)
_PACKAGE = "cv2"
_NOT_INSTALLED = "Not shown: pip install 'cnnimretrieval[spatial]' brings what it needs."


def reranking(files: RunFiles, row: str, thumbnails: Thumbnails) -> dict[str, Any]:
    """What the page shows of re-ranking what the network `row` found.

    `reranked`, by what `proven_by`, and `not_reranked`, why there is nothing.
    """
    nothing = {"reranked": (), "proven_by": "", "attended": False, "candidates": 0, "not_reranked": ""}
    if importlib.util.find_spec(_PACKAGE) is None:
        return {**nothing, "not_reranked": _NOT_INSTALLED}
    if files.photos is None or files.rankings is None or files.rankings.empty:
        return {**nothing, "not_reranked": "There are no rankings to show."}
    from cnnimretrieval.search.spatial import LOCAL, SpatialConfig
    from experiments.report.reranked import CANDIDATES, reranked_sheet

    finder = _network_finder(files)
    method = "sift" if finder is None else LOCAL
    config = SpatialConfig(features=method, candidates=CANDIDATES)
    matcher = finder or _sift_finder(files, config.max_features)
    rows = reranked_sheet(files.rankings, row, files.photos, matcher, config, thumbnails)
    return {
        "reranked": rows,
        "proven_by": "SIFT" if finder is None else "the network’s own local features",
        "attended": finder is not None,
        "candidates": CANDIDATES,
        "not_reranked": "" if rows else "No query had both right and wrong photos in front.",
    }


def _network_finder(files: RunFiles) -> "Finder | None":
    """By the network of the run; None where it has no local head, or cannot be read."""
    folder = files.work / "model"
    if not (folder / "network.json").is_file():
        return None
    try:
        if not read_json(folder / "network.json").get("local"):
            return None
        from cnnimretrieval.local.pyramid import PyramidConfig
        from cnnimretrieval.networks.open import load
        from experiments.report.shown import NetworkFinder

        return NetworkFinder(load(folder), PyramidConfig(scales=_SCALES))
    except (OSError, ValueError) as error:
        logger.warning("%s; the report matches photos by SIFT", error)
        return None


def _sift_finder(files: RunFiles, max_features: int) -> "Finder":
    """By SIFT, and by what the reconstruction kept of it."""
    from cnnimretrieval.local.detected import detection
    from experiments.report.shown import MethodFinder
    from sfm.kept_features import kept_features

    try:
        kept = kept_features(files.work / "sfm", "sift")
    except (OSError, ValueError):
        return MethodFinder(config=detection("sift", max_features))
    return MethodFinder(config=kept.config, kept=kept)
