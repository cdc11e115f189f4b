"""Local features that need no network: SIFT or a plug-in of `sfm`, found in photos when asked for."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped

from cnnimretrieval.descriptors.images import ImageRequest, full_size, open_request
from cnnimretrieval.local.features import LocalFeatures
from groundwork.ahead import work_ahead
from groundwork.child import preload
from groundwork.files import atomic_path
from groundwork.keys import key_of
from groundwork.photos import UnusablePhoto
from sfm.correspondence import unit_descriptors
from sfm.detection import FeatureConfig
from sfm.kept_features import KeptFeatures
from sfm.local_features.interface import Detector, FeatureFault, find, load_method

logger = logging.getLogger(__name__)

_TOGETHER = 8
# COLMAP's SIFT looks at 4 x 4 cells, each 3 times as wide as the keypoint's scale.
_SEEN_SCALES = 12.0
_VERSION = 1


# Photos are searched at this longer side; what is matched needs no more.
LONGEST_PX = 1024


def detection(method: str, max_features: int) -> FeatureConfig:
    """How a named method finds features in photos to be matched; ValueError for a name of none."""
    return FeatureConfig(method=method, max_side_px=LONGEST_PX, max_features=max(16, max_features))


@dataclass(frozen=True, kw_only=True, eq=False)
class Detected:
    """What was found for one request, as the method gave it; nothing, and the `reason`, in a useless photo.

    `keypoints` are x, y, scale in px of what the request shows, at full size: of the upright photo, or of the
    box.
    """

    keypoints: Float32[np.ndarray, "n 3"]
    descriptors: Shaped[np.ndarray, "n d"]
    reason: str = ""

    def features(self) -> LocalFeatures:
        """The same as features; what a method gives comes in the order of its worth, which is the score."""
        return LocalFeatures(
            keypoints=self.keypoints[:, :2],
            scales=self.keypoints[:, 2] * np.float32(_SEEN_SCALES),
            scores=np.arange(len(self.keypoints), 0, -1, dtype=np.float32),
            descriptors=unit_descriptors(self.descriptors),
        )


def detect_each(
    requests: Sequence[ImageRequest],
    config: FeatureConfig,
    *,
    cache: Path | None = None,
    kept: KeptFeatures | None = None,
    workers: int = 1,
) -> Iterator[Detected]:
    """What is found for each request, in order, by child processes, `workers` at a time.

    What a reconstruction `kept` of whole photos is not found again. With a `cache`, a folder, what was found
    in a photo lies there and is taken from there as long as photo and settings stay the same; where it cannot
    be written it is left out.
    """
    again = [None if kept is None else _kept(kept, request, config) for request in requests]
    settings = "" if cache is None else config.key
    paths = [
        None if cache is None or found is not None else _cached_path(cache, request, settings)
        for request, found in zip(requests, again, strict=True)
    ]
    known = [found if path is None else _read(path) for path, found in zip(paths, again, strict=True)]
    missing = [request for request, found in zip(requests, known, strict=True) if found is None]
    preload(__name__)
    made = work_ahead(
        partial(_detect, config), missing, workers=max(1, workers), together=_TOGETHER, lost=_unusable
    )
    for path, found in zip(paths, known, strict=True):
        if found is not None:
            yield found
            continue
        detected = next(made)
        if path is not None and not detected.reason:
            _write(path, detected)
        yield detected


class PhotoFeatures:
    """The features of the photos of a database, by row; those asked for before come from the `cache`.

    What a photo that cannot be used would have had is nothing: it is told once, with the number of them.
    """

    def __init__(
        self,
        request_of: Callable[[int], ImageRequest],
        config: FeatureConfig,
        *,
        cache: Path | None,
        workers: int,
        kept: KeptFeatures | None = None,
    ) -> None:
        self._request_of = request_of
        self._detect_each = partial(detect_each, config=config, cache=cache, kept=kept, workers=workers)
        self._told: set[Path] = set()

    def prepare(self, rows: Sequence[int]) -> None:
        """See to it that the features of these rows are in the cache; many photos keep all processes busy."""
        for _ in self._detect_each([self._request_of(row) for row in rows]):
            pass

    def __call__(self, rows: Sequence[int]) -> list[LocalFeatures]:
        """Of each row."""
        requests = [self._request_of(row) for row in rows]
        found = list(self._detect_each(requests))
        for request, detected in zip(requests, found, strict=True):
            if detected.reason and request.path not in self._told:
                self._told.add(request.path)
                logger.warning(
                    "%s: no local features (%s); it keeps its place unverified",
                    request.path,
                    detected.reason,
                )
        return [detected.features() for detected in found]


def _kept(kept: KeptFeatures, request: ImageRequest, config: FeatureConfig) -> Detected | None:
    """What a reconstruction kept of a whole photo, as `_detect` gives it; None of anything else."""
    whole = request.box is None and request.edit is None and not request.rotation_deg
    found = kept.of(request.path) if whole else None
    return None if found is None else _sound(*found, config.max_features)


def _sound(
    keypoints: Float32[np.ndarray, "n k"], descriptors: Shaped[np.ndarray, "n d"], count: int
) -> Detected:
    """The best features, without those of zeros, as of a flat patch, which have no direction."""
    seen = np.flatnonzero(descriptors.astype(bool).any(axis=1))[:count]
    return Detected(keypoints=keypoints[seen, :3], descriptors=descriptors[seen])


def _detect(config: FeatureConfig, request: ImageRequest) -> Detected:
    try:
        picture = open_request(request, config.max_side_px)
        width, height = shown_size(request)
        gray = np.asarray(picture.convert("L"), dtype=np.uint8)
        keypoints, descriptors = find(_detector(config), gray)
    except (OSError, ValueError, UnusablePhoto, FeatureFault) as fault:
        finding = fault.__cause__ if isinstance(fault.__cause__, UnusablePhoto) else fault
        return _nothing(str(finding))
    x, y = width / picture.width, height / picture.height
    stretch = np.array([x, y, np.sqrt(x * y)], np.float32)
    return _sound(keypoints[:, :3] * stretch, descriptors, config.max_features)


@lru_cache(maxsize=1)
def _detector(config: FeatureConfig) -> Detector:
    return load_method(config.method).detector(
        max_features=config.max_features, first_octave=config.first_octave
    )


def shown_size(request: ImageRequest) -> tuple[float, float]:
    """Width and height of what a request shows, in px of the photo, which keypoints are counted in."""
    width, height = full_size(request)
    if request.box is None:
        return width, height
    x1, y1, x2, y2 = request.box
    return min(x2, width) - max(x1, 0.0), min(y2, height) - max(y1, 0.0)


def _unusable(request: ImageRequest, death: str) -> Detected:
    return _nothing(f"processes die of it: {death}")


def _nothing(reason: str) -> Detected:
    return Detected(
        keypoints=np.empty((0, 3), np.float32), descriptors=np.empty((0, 0), np.uint8), reason=reason
    )


def _cached_path(folder: Path, request: ImageRequest, settings: str) -> Path | None:
    """Where the features lie that settings of this key find in a photo.

    None for what is no plain part of a file that is there.
    """
    if request.edit is not None or request.rotation_deg:
        return None
    try:
        facts = request.path.stat()
    except OSError:
        return None
    box = None if request.box is None else list(request.box)
    stamp = [str(request.path.resolve()), facts.st_size, facts.st_mtime_ns]
    shown = [*stamp, box, request.as_photo, request.as_stored]
    key = key_of(_VERSION, settings, shown)
    return folder / key[:2] / f"{key}.npz"


def _read(path: Path) -> Detected | None:
    """What `_write` wrote; None where it is missing or damaged: it is found again then."""
    try:
        # Opened here: numpy leaves open what it finds to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = Detected(keypoints=stored["keypoints"], descriptors=stored["descriptors"])
        found.features()
        return found
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the damage leads numpy and zipfile to
        logger.warning("%s: damaged (%s); its features are found again", path, type(error).__name__)
        return None


def _write(path: Path, found: Detected) -> None:
    try:
        with atomic_path(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, keypoints=found.keypoints, descriptors=found.descriptors)
    except OSError as error:
        logger.warning("%s: not kept (%s)", path, error.strerror)
