"""What a local head learns from in one step: places of the maps of some photos, and what is known of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cnnimretrieval.training.local.losses import surely_apart
from cnnimretrieval.training.local.maps import PhotoMap
from cnnimretrieval.training.local.settings import LocalTrainingConfig
from cnnimretrieval.training.local.supervision import NOTHING, Observations, shared_places, worth_attending
from cnnimretrieval.training.losses.pair_masks import PairMasks


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalBatch:
    """The places of several photos, one after the other, as one map of one column.

    Attributes:
        x: activations.
        of_photo: the places of each photo.
        rows: of the pair table, a photo each.
        worth: places worth attending to; `worthless` are surely not.
        matching: pairs of photos that match; `apart` are surely of different places.
        points: places that see one point in two photos, one pair of places a row.
        competes: which of these pairs are surely of different points.

    """

    x: Float[Tensor, "1 c n 1"]
    of_photo: tuple[slice, ...]
    rows: Int[np.ndarray, " p"]
    worth: Bool[Tensor, " n"]
    worthless: Bool[Tensor, " n"]
    matching: Bool[Tensor, "p p"]
    apart: Bool[Tensor, "p p"]
    points: Int[Tensor, "k 2"]
    competes: Bool[Tensor, "k k"]


class LocalBatches:
    """Puts batches together from the maps of photos, whose rows in the pair table are `rows`."""

    def __init__(
        self,
        maps: Sequence[PhotoMap],
        rows: Int[np.ndarray, " p"],
        place: Int[np.ndarray, " n"],
        masks: PairMasks,
        seen: Mapping[int, Observations],
        config: LocalTrainingConfig,
    ) -> None:
        self._map_of = dict(zip(rows.tolist(), maps, strict=True))
        self._seen = {row: seen.get(row, NOTHING) for row in rows.tolist()}
        self._places = {row: self._map_of[row].places_of(self._seen[row].xy) for row in rows.tolist()}
        self._place, self._masks, self._config = place, masks, config

    def of(self, pairs: Int[np.ndarray, "b 2"], rng: np.random.Generator) -> LocalBatch:
        """The batch of some pairs of photos, given as rows of the pair table."""
        rows = np.unique(pairs)
        maps = [self._map_of[row] for row in rows.tolist()]
        starts = np.cumsum([0, *(len(one.activations) for one in maps)])
        activations = np.concatenate([one.activations for one in maps]).astype(np.float32)
        worth, worthless = zip(*(self._worth(row) for row in rows.tolist()), strict=True)
        points, competes = self._points(pairs, dict(zip(rows.tolist(), starts.tolist(), strict=False)), rng)
        matching, apart = self._masks.matching(rows, rows), self._masks.apart(rows, rows)
        return LocalBatch(
            x=torch.from_numpy(activations).T[None, :, :, None],
            of_photo=tuple(slice(*edges) for edges in pairwise(starts.tolist())),
            rows=rows,
            worth=torch.from_numpy(np.concatenate(worth)),
            worthless=torch.from_numpy(np.concatenate(worthless)),
            matching=torch.from_numpy(matching),
            apart=torch.from_numpy(apart),
            points=points,
            competes=competes,
        )

    def _worth(self, row: int) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        one, seen = self._map_of[row], self._seen[row]
        if not len(seen.xy):
            # In no model: nobody knows what is worth attending to here.
            nothing = np.zeros(one.height * one.width, np.bool_)
            return nothing, nothing
        return worth_attending(self._places[row], seen.length, one.height, one.width, self._config.long_track)

    def _points(
        self, pairs: Int[np.ndarray, "b 2"], start: Mapping[int, int], rng: np.random.Generator
    ) -> tuple[Int[Tensor, "k 2"], Bool[Tensor, "k k"]]:
        photos, cells, places, points = [], [], [], []
        for query, positive in pairs.tolist():
            found = shared_places(
                self._seen[query], self._places[query], self._seen[positive], self._places[positive]
            )
            kept = rng.permutation(len(found))[: self._config.points_per_pair]
            found = found[kept]
            widths = (self._map_of[query].width, self._map_of[positive].width)
            photos += [(query, positive)] * len(found)
            places += [int(self._place[query])] * len(found)
            cells.append(np.stack(np.divmod(found, widths), axis=2))
            points.append(found + np.array([start[query], start[positive]]))
        if not photos:
            return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 0, dtype=torch.bool)
        photo, cell = torch.tensor(photos), torch.from_numpy(np.concatenate(cells))
        competes = surely_apart(photo, cell, torch.tensor(places))
        return torch.from_numpy(np.concatenate(points)), competes
