"""Label-free test queries: whole photos, crops and retaken crops, and what they must find."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from scipy.sparse import csc_array

from groundwork.descriptor_folder import BOX
from groundwork.files import read_table, write_table
from groundwork.keys import key_of
from groundwork.orientation import upright_size, upright_xy
from groundwork.settings import Settings
from sfm.covisibility import visibility
from sfm.model import Model

Box = tuple[int, int, int, int]
Kind = Literal["whole", "crop", "retaken"]
Purpose = Literal["report", "choose"]


class HeldoutConfig(Settings):
    """How test queries are drawn and when an image counts as found."""

    min_shared_points: int = Field(default=15, ge=1, description="3D points that prove a positive")
    crops_per_image: int = Field(default=2, ge=0, description="crop queries of a photo, relit")
    retaken_per_image: int = Field(
        default=1, ge=0, description="crop queries of a photo, seen by another camera instead"
    )
    images_per_place: int = Field(default=50, ge=1, description="photos of a held-out place that are queries")
    images_per_training_place: int = Field(
        default=5, ge=0, description="photos of a training place of which crops are queries, too"
    )
    far_angle_deg: float = Field(
        default=30.0, gt=0, le=180, description="between optical axes, from which on a positive is a far one"
    )
    min_area: float = Field(default=0.12, gt=0, le=1, description="of a crop, as a share of the photo")
    max_area: float = Field(default=0.36, gt=0, le=1, description="of a crop, as a share of the photo")
    max_stretch: float = Field(
        default=4 / 3, ge=1, le=1.6, description="a crop's aspect by the photo's, or the inverse"
    )
    max_rotation_deg: float = Field(default=8.0, ge=0, le=45, description="of a crop, either way")
    tries: int = Field(default=20, ge=1, description="boxes drawn before a crop query is given up")

    @model_validator(mode="after")
    def _boxes_fit(self) -> "HeldoutConfig":
        if self.min_area > self.max_area or self.max_area * self.max_stretch > 1:
            raise ValueError(
                "heldout: expected min_area <= max_area <= 1 / max_stretch, got "
                f"{self.min_area:g}, {self.max_area:g} and {self.max_stretch:g}; make the crops smaller"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class HeldoutQuery:
    """One test query.

    `box` (x1, y1, x2, y2) is in px of the upright photo, half open; the crop is the box's content after the
    photo is rotated by `rotation_deg` about the box's centre. `seed` fixes whatever evaluation draws, such
    as relighting. `far` are the positives that look at it from far another side. The other images of the
    place, the query's own photo among them, are junk: geometry does not prove what they show. `purpose` says
    whether scores are reported of it or choices made on it.
    """

    query: str
    kind: Kind
    purpose: Purpose
    box: Box
    rotation_deg: float
    seed: int
    positives: tuple[str, ...]
    far: tuple[str, ...]
    place: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TestPlace:
    """A place of which queries are drawn.

    `models` are all of the place; `photos` has the `name`, the EXIF `orientation` and the `content`, a digest
    of its bytes, of every usable image of it, in a model or not. `copies` are the near-copies of an image,
    which it need not find, `far` those that look at it from far another side. `purpose` is that of its
    queries; None for a training place, which is queried by a few crops, some for either purpose.
    """

    # pytest takes classes of this name for tests.
    __test__ = False

    number: int
    models: Sequence[Model]
    photos: pd.DataFrame
    purpose: Purpose | None = "report"
    copies: Mapping[str, frozenset[str]] = field(default_factory=dict)
    far: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    """One image in one model: the points it sees, where, and which images see them too."""

    xy: Float[np.ndarray, "k 2"]
    point: Int[np.ndarray, " k"]
    visible: csc_array
    names: tuple[str, ...]

    def sharing(self, box: Box) -> Counter[str]:
        """Number of points inside the box that each other image sees."""
        x1, y1, x2, y2 = box
        x, y = self.xy.T
        inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        counts = self.visible[:, np.unique(self.point[inside])].sum(axis=1)
        return Counter({self.names[row]: int(counts[row]) for row in np.flatnonzero(counts)})


def draw_queries(
    place: TestPlace, seed: int, config: HeldoutConfig
) -> tuple[list[HeldoutQuery], Counter[str]]:
    """The test queries of one place, and the number of those given up by reason.

    Each image's boxes depend on the seed, its content and its points, not on other places. Queries come in
    the order of the photos. Of a place with more photos than are asked for, a seeded choice is queried: the
    work grows with the places, not with the square of their size.
    """
    queries: list[HeldoutQuery] = []
    dropped: Counter[str] = Counter()
    names: list[str] = place.photos["name"].tolist()
    orientation: dict[str, int] = dict(zip(names, place.photos["orientation"].tolist(), strict=True))
    content: dict[str, str] = dict(zip(names, place.photos["content"].tolist(), strict=True))
    views = _views_by_name(place.models, orientation)
    sizes = {
        name: size for model in place.models for name, size in zip(model.names, model.sizes, strict=True)
    }
    asked = _some([name for name in names if name in views], content, seed, config, place.purpose)
    for name in asked:
        size = upright_size(int(sizes[name][0]), int(sizes[name][1]), orientation[name])
        left_out = place.copies.get(name, frozenset()) | {name}
        for number, kind, purpose in _drawn_of(config, place.purpose):
            rng = np.random.default_rng(int(key_of(seed, content[name], number)[:16], 16))
            boxes = iter([(0, 0, *size)]) if kind == "whole" else _boxes(*size, config, rng)
            box, positives = _first_with_positives(boxes, left_out, views[name], config.min_shared_points)
            if not positives:
                reason = f"fewer than {config.min_shared_points} points shared with any image"
                dropped[f"{kind} query: {reason}"] += 1
                continue
            turned = 0.0 if kind == "whole" else float(rng.uniform(-1, 1)) * config.max_rotation_deg
            queries.append(
                HeldoutQuery(
                    query=name,
                    kind=kind,
                    purpose=purpose,
                    box=box,
                    rotation_deg=turned,
                    seed=int(rng.integers(2**31)),
                    positives=positives,
                    far=tuple(sorted(place.far.get(name, frozenset()).intersection(positives))),
                    place=place.number,
                )
            )
    return queries, dropped


def _some(
    names: Sequence[str],
    content: Mapping[str, str],
    seed: int,
    config: HeldoutConfig,
    purpose: Purpose | None,
) -> list[str]:
    """As many of `names` as are to be queried, in their order."""
    most = config.images_per_training_place if purpose is None else config.images_per_place
    chosen = set(sorted(names, key=lambda name: key_of(seed, content[name], "queried"))[:most])
    return [name for name in names if name in chosen]


def _drawn_of(config: HeldoutConfig, purpose: Purpose | None) -> Iterator[tuple[int | str, Kind, Purpose]]:
    """What is drawn of each photo of a place: what tells the draw apart, its kind and purpose."""
    if purpose is not None:
        yield 0, "whole", purpose
    for number in range(1, 1 + config.crops_per_image):
        yield number, "crop", purpose or ("report" if number % 2 else "choose")
    for number in range(config.retaken_per_image):
        yield f"retaken {number}", "retaken", purpose or "choose"


def write_heldout(queries: Sequence[HeldoutQuery], path: Path) -> None:
    """Write one row per query, atomically; the box as columns x1, y1, x2, y2."""
    columns = [one.name for one in fields(HeldoutQuery) if one.name != "box"]
    frame = pd.DataFrame({column: [getattr(query, column) for query in queries] for column in columns})
    for number, edge in enumerate(BOX):
        frame.insert(3 + number, edge, [query.box[number] for query in queries])
    write_table(path, frame)


def read_heldout(path: Path) -> tuple[HeldoutQuery, ...]:
    """Read what `write_heldout` wrote."""
    rows: list[dict[str, Any]] = [
        {str(column): value for column, value in row.items()} for row in read_table(path).to_dict("records")
    ]
    return tuple(
        HeldoutQuery(
            box=(row.pop("x1"), row.pop("y1"), row.pop("x2"), row.pop("y2")),
            positives=tuple(row.pop("positives")),
            far=tuple(row.pop("far")),
            **row,
        )
        for row in rows
    )


def _views_by_name(models: Sequence[Model], orientation: Mapping[str, int]) -> dict[str, list[_View]]:
    views: dict[str, list[_View]] = {}
    for model in models:
        visible = visibility(model).tocsc()
        seen_by = model.observations_by_image()
        for row, (name, seen) in enumerate(zip(model.names, seen_by, strict=True)):
            width, height = map(int, model.sizes[row])
            xy = upright_xy(model.track_xy[seen], width, height, orientation[name])
            view = _View(xy=xy, point=model.track_point[seen], visible=visible, names=model.names)
            views.setdefault(name, []).append(view)
    return views


def _boxes(width: int, height: int, config: HeldoutConfig, rng: np.random.Generator) -> Iterator[Box]:
    for _ in range(config.tries):
        area = rng.uniform(config.min_area, config.max_area)
        stretch = config.max_stretch ** rng.uniform(-1, 1)
        box_width = max(1, round(width * (area * stretch) ** 0.5))
        box_height = max(1, round(height * (area / stretch) ** 0.5))
        x1 = int(rng.integers(width - box_width + 1))
        y1 = int(rng.integers(height - box_height + 1))
        yield x1, y1, x1 + box_width, y1 + box_height


def _first_with_positives(
    boxes: Iterator[Box], left_out: Collection[str], views: Sequence[_View], min_shared_points: int
) -> tuple[Box, tuple[str, ...]]:
    """The first box in which images not left out see enough of the points, with them; else the last."""
    box: Box = (0, 0, 0, 0)
    positives: tuple[str, ...] = ()
    for box in boxes:
        # Of two models that hold the image, the one in which another image shares more counts.
        shared = reduce(or_, (view.sharing(box) for view in views))
        enough = {other for other, number in shared.items() if number >= min_shared_points}
        positives = tuple(sorted(enough.difference(left_out)))
        if positives:
            break
    return box, positives
