"""The contender: a folder of photos reconstructed by bare pycolmap calls, one core, every pair matched."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sfm.reconstruct import ReconstructConfig


@dataclass(frozen=True, kw_only=True)
class Registered:
    """How many photos have a pose in the largest model, and in all of them."""

    largest: int
    total: int


def reconstruct_like(photos: Path, names: Sequence[str], out: Path, config: ReconstructConfig) -> Registered:
    """Do what `sfm.reconstruct` does with these settings, in COLMAP's own four steps.

    Matching has no preview: COLMAP knows none. To be run in a process of its own.
    """
    pycolmap = _pycolmap()
    extraction = _extraction(pycolmap)
    extraction.max_image_size = config.features.max_side_px
    extraction.sift.max_num_features = config.features.max_features
    extraction.sift.first_octave = config.features.first_octave
    matching = _matching(pycolmap)
    matching.sift.max_ratio = config.matching.max_ratio
    verification = pycolmap.TwoViewGeometryOptions()
    verification.min_num_inliers = config.matching.min_inliers
    verification.ransac.max_error = config.matching.max_error_px
    verification.ransac.max_num_trials = config.matching.max_trials
    verification.ransac.random_seed = config.seed
    mapping = _mapping(pycolmap)
    mapping.extract_colors = False
    mapping.random_seed = config.seed
    mapping.min_model_size = config.mapping.min_model_size
    mapping.ba_global_frames_ratio = config.mapping.global_ba_ratio
    mapping.ba_global_points_ratio = config.mapping.global_ba_ratio
    mapping.ba_global_max_refinements = config.mapping.global_ba_refinements
    mapping.mapper.init_min_num_inliers = config.mapping.init_min_inliers
    mapping.mapper.init_min_tri_angle = config.mapping.init_min_angle_deg
    return _run(pycolmap, photos, names, out, (extraction, matching, verification, mapping))


def reconstruct_by_default(photos: Path, names: Sequence[str], out: Path) -> Registered:
    """Reconstruct with COLMAP's default options, on one core. To be run in a process of its own."""
    pycolmap = _pycolmap()
    options = (
        _extraction(pycolmap),
        _matching(pycolmap),
        pycolmap.TwoViewGeometryOptions(),
        _mapping(pycolmap),
    )
    return _run(pycolmap, photos, names, out, options)


def _run(pycolmap: Any, photos: Path, names: Sequence[str], out: Path, options: Sequence[Any]) -> Registered:
    extraction, matching, verification, mapping = options
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    database = out / "database.db"
    pycolmap.extract_features(database, photos, image_names=list(names), extraction_options=extraction)
    pycolmap.match_exhaustive(database, matching_options=matching, verification_options=verification)
    models = pycolmap.incremental_mapping(database, photos, out, options=mapping)
    found = [model.num_reg_images() for model in models.values()]
    return Registered(largest=max(found, default=0), total=sum(found))


def _pycolmap() -> Any:
    # The adapter's file is the only one of the packages that imports pycolmap; the contender cannot use it.
    pycolmap = import_module("pycolmap")
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
    return pycolmap


def _extraction(pycolmap: Any) -> Any:
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = 1
    options.use_gpu = False
    return options


def _matching(pycolmap: Any) -> Any:
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads = 1
    options.use_gpu = False
    return options


def _mapping(pycolmap: Any) -> Any:
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1
    return options
