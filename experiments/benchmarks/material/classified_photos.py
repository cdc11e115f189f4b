"""Photos with a class each: Oxford-IIIT Pets as published, a folder for each class, or rendered places."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from experiments.benchmarks.material.sample import photo_files
from experiments.demo.collection import DemoConfig, render_collection

# Photos of a class to learn from, and to test: of one alone, there would be no other to be found.
_LEAST = 2
_LISTS = ("trainval", "test")
_RENDERED = DemoConfig(unrelated=0, width=320, height=240)


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifiedPhotos:
    """Photos, the class of each as a number from 0, and `what` they are, in words for a reader.

    `is_test` is the published split; None where a seed draws one.
    """

    what: str
    paths: tuple[Path, ...]
    labels: Int[np.ndarray, " n"]
    is_test: Bool[np.ndarray, " n"] | None = None

    @property
    def num_classes(self) -> int:
        """Classes, of which each has photos to learn from."""
        return int(self.labels.max()) + 1

    def test_photos(self, seed: int) -> Bool[np.ndarray, " n"]:
        """Which are tested: as published, or half of each class, rounded down, drawn by `seed`."""
        if self.is_test is not None:
            return self.is_test
        drawn, rng = np.zeros(len(self.labels), np.bool_), np.random.default_rng(seed)
        for label in range(self.num_classes):
            rows = rng.permutation(np.flatnonzero(self.labels == label))
            drawn[rows[: len(rows) // 2]] = True
        return drawn


def read_pets(folder: Path) -> ClassifiedPhotos:
    """Oxford-IIIT Pets (Parkhi et al., CVPR 2012) as both archives unpack: images/ and annotations/.

    ValueError or FileNotFoundError, in one line, for another layout, a photo that is missing or in both
    lists, and a class that a list has fewer than two photos of.
    """
    entries = {name: _read_list(folder, name) for name in _LISTS}
    counts = {name: Counter(label for _, label in entries[name]) for name in _LISTS}
    classes = sorted({*counts["trainval"], *counts["test"]})
    for name, label in product(_LISTS, classes):
        if counts[name][label] < _LEAST:
            raise ValueError(
                f"Oxford-IIIT Pets {folder}: expected at least {_LEAST} photos of each class in each list, "
                f"got {counts[name][label]} of class {label} in {name}.txt; unpack the annotations again"
            )
    _check_classes(folder, len(classes))
    both = {name for name, _ in entries["trainval"]} & {name for name, _ in entries["test"]}
    if both:
        raise ValueError(
            f"Oxford-IIIT Pets {folder}: expected every photo in one list, got {min(both)} in both; "
            "unpack the annotations again"
        )
    together = [*entries["trainval"], *entries["test"]]
    _, labels = np.unique([label for _, label in together], return_inverse=True)
    return ClassifiedPhotos(
        what=f"Oxford-IIIT Pets, {len(classes)} breeds, published split",
        paths=tuple(folder / "images" / f"{name}.jpg" for name, _ in together),
        labels=labels.astype(np.int64),
        is_test=np.arange(len(together)) >= len(entries["trainval"]),
    )


def _read_list(folder: Path, name: str) -> list[tuple[str, int]]:
    path = folder / "annotations" / f"{name}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"Oxford-IIIT Pets {folder}: expected images/ and annotations/ with trainval.txt and test.txt, "
            f"got no {path.relative_to(folder).as_posix()}; give the folder both archives were unpacked in"
        )
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not words[1].isascii() or not words[1].isdigit():
            raise ValueError(
                f"{path}, line {number}: expected the name of a photo and the number of its class, "
                f"got {line!r}; unpack the annotations again"
            )
        photo = folder / "images" / f"{words[0]}.jpg"
        if not photo.is_file():
            raise FileNotFoundError(
                f"{path}, line {number}: expected the photo {photo}, got no such file; "
                "unpack the images again"
            )
        found.append((words[0], int(words[1])))
    return found


def read_folders(folder: Path) -> ClassifiedPhotos:
    """The photos below each folder in `folder`, which is a class; one with fewer than four photos is none.

    ValueError where fewer than two classes are left.
    """
    classes: dict[str, list[Path]] = {}
    for path in photo_files(folder):
        name, *below = path.relative_to(folder).parts
        if below:
            classes.setdefault(name, []).append(path)
    large = [paths for paths in classes.values() if len(paths) >= 2 * _LEAST]
    _check_classes(folder, len(large))
    left_out = f", {len(classes) - len(large)} smaller ones left out" if len(large) < len(classes) else ""
    return _of_classes(f"{len(large)} folders of {folder}{left_out}", large)


def render_places(out: Path, config: DemoConfig = _RENDERED, workers: int | None = None) -> ClassifiedPhotos:
    """The demo's places, rendered into `out`: a stand-in, since a place is told by what its photos share."""
    truth = render_collection(out, config, workers)
    places = [
        [truth.photos / name for name in truth.models[place].names] for place in range(truth.num_places)
    ]
    return _of_classes(f"{len(places)} places rendered by the demo, as a stand-in for photos", places)


def _of_classes(what: str, classes: Sequence[Sequence[Path]]) -> ClassifiedPhotos:
    sizes = [len(paths) for paths in classes]
    return ClassifiedPhotos(
        what=f"{what}; half of each drawn by the seed to learn from",
        paths=tuple(path for paths in classes for path in paths),
        labels=np.repeat(np.arange(len(classes)), sizes),
    )


def _check_classes(folder: Path, found: int) -> None:
    if found < 2:
        raise ValueError(
            f"photos {folder}: expected at least 2 classes with {2 * _LEAST} photos each, got {found}; "
            "give another folder"
        )
