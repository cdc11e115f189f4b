"""Two kinds of local features of a collection taken together: keypoints end to end, matches in one folder."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, UInt32

from groundwork.files import atomic_path
from groundwork.links import link
from sfm.featurestore import FeatureStore, ImageFeatures
from sfm.matching import Matches, block_path, read_inliers, write_inliers
from sfm.pair_table import ENDS, is_trusted


@dataclass(frozen=True, kw_only=True)
class JoinedStore(FeatureStore):
    """The keypoints of a first store, and behind those of an image what a second one knows of it."""

    second: FeatureStore

    def read(self, image_ids: Iterable[int]) -> Iterator[ImageFeatures]:
        """As `FeatureStore.read`."""
        wanted = sorted(image_ids)
        more = self._more(wanted)
        for image in super().read(wanted):
            yield replace(image, keypoints=_end_to_end(image.keypoints, more.get(image.image_id)))

    def read_keypoints(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Float32[np.ndarray, "n 4"]]]:
        """As `FeatureStore.read_keypoints`."""
        wanted = sorted(image_ids)
        more = self._more(wanted)
        for image_id, keypoints in super().read_keypoints(wanted):
            yield image_id, _end_to_end(keypoints, more.get(image_id))

    def _more(self, image_ids: list[int]) -> dict[int, Float32[np.ndarray, "n 4"]]:
        return dict(self.second.read_keypoints(self.second.known(image_ids)))


def _end_to_end(
    first: Float32[np.ndarray, "n 4"], second: Float32[np.ndarray, "m 4"] | None
) -> Float32[np.ndarray, "k 4"]:
    return first if second is None else np.concatenate([first, second])


def join_pairs(
    first: pd.DataFrame, second: pd.DataFrame, min_inliers: int
) -> tuple[pd.DataFrame, Bool[np.ndarray, " p"]]:
    """The pairs of `first` with what `second` adds, and which of them it changed.

    A pair without a trusted geometry takes that of the second feature; one that is trusted keeps its own,
    with the inliers of both. Where the second feature found nothing, a pair stays as it is. Both tables have
    the columns `sfm.pair_table.MATCHED`. A changed pair has its inliers where `write_joined` puts them: in
    blocks numbered on from those of `first`.
    """
    found = second[second["inliers"] > 0].set_index(list(ENDS))
    row = found.index.get_indexer(pd.MultiIndex.from_frame(first[list(ENDS)]))
    changed = row >= 0
    of_changed = found.iloc[row[changed]]
    own = is_trusted(first, min_inliers).to_numpy()[changed]
    joined = first.copy()
    inliers = np.where(own, first["inliers"].to_numpy()[changed], 0) + of_changed["inliers"].to_numpy()
    kinds = np.where(own, first["geometry_kind"].to_numpy()[changed], of_changed["geometry_kind"].to_numpy())
    block = of_changed["block"].to_numpy() + next_block(first)
    for name, values in (
        ("inliers", inliers),
        ("geometry_kind", kinds),
        ("block", block),
        ("row", of_changed["row"].to_numpy()),
    ):
        column = joined[name].to_numpy(copy=True)
        column[changed] = values
        joined[name] = column
    return joined, changed


def next_block(pairs: pd.DataFrame) -> int:
    """The number after those of all blocks."""
    return int(pairs["block"].max()) + 1 if len(pairs) else 0


def write_joined(
    folder: Path,
    first: Matches,
    second: Matches,
    min_inliers: int,
    num_keypoints: Int[np.ndarray, " n"],
) -> pd.DataFrame:
    """Put the inliers of both into `folder`, as `sfm.matching` keeps them, and return the pairs of both.

    `num_keypoints` are those of the first feature, of image_id r + 1 in row r: the ones of the second follow.
    Blocks of the first are linked, not copied, where the disk knows links: nobody writes into them.
    """
    pairs, changed = join_pairs(first.pairs, second.pairs, min_inliers)
    own = first.pairs[changed & is_trusted(first.pairs, min_inliers).to_numpy()]
    with atomic_path(folder) as unfinished:
        unfinished.mkdir()
        for block in np.unique(first.pairs["block"].to_numpy()).tolist():
            link(block_path(first.folder, block), block_path(unfinished, block))
        found = second.pairs[second.pairs["row"] >= 0].sort_values("row")
        for block in np.unique(found["block"].to_numpy()).tolist():
            theirs = found[found["block"] == block]
            own_inliers = _inliers_of(first.folder, own, theirs)
            inliers = []
            for one, two, _, more in read_inliers(second.folder, theirs):
                behind = num_keypoints[[one - 1, two - 1]].astype(np.uint32)
                before = [own_inliers[one, two]] if len(more) and (one, two) in own_inliers else []
                inliers.append(np.concatenate([*before, more + behind]))
            write_inliers(block_path(unfinished, next_block(first.pairs) + block), inliers)
    return pairs


def _inliers_of(
    folder: Path, pairs: pd.DataFrame, wanted: pd.DataFrame
) -> dict[tuple[int, int], UInt32[np.ndarray, "n 2"]]:
    """The inliers of those of `pairs` that are `wanted`, by their image ids."""
    part = pairs.merge(wanted[list(ENDS)], on=list(ENDS))
    return {(one, two): inliers for one, two, _, inliers in read_inliers(folder, part)}
