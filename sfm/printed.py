"""A set of keypoints that lie on print, 8 bytes each, and what is left of matches beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Int64, UInt32

from sfm.paircodes import MAX_KEYPOINTS, decode, encode, sort_unique


@dataclass(frozen=True, kw_only=True, eq=False)
class PrintedKeypoints:
    """A set of keypoints, each given by its image and its number there."""

    codes: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def of(cls, image_ids: Int[np.ndarray, " k"], keypoints: Int[np.ndarray, " k"]) -> "PrintedKeypoints":
        """The set of these keypoints, which may come up more than once."""
        return cls(codes=sort_unique(encode(image_ids, keypoints, MAX_KEYPOINTS)))

    @classmethod
    def of_table(cls, table: pd.DataFrame) -> "PrintedKeypoints":
        """The set of the keypoints in a table like that of the method `table`."""
        return cls.of(table["image_id"].to_numpy(), table["keypoint"].to_numpy())

    @classmethod
    def union(cls, parts: Iterable["PrintedKeypoints"]) -> "PrintedKeypoints":
        """All that one of the sets holds."""
        codes = [part.codes for part in parts]
        return cls(codes=sort_unique(np.concatenate([np.empty(0, dtype=np.int64), *codes])))

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def image_ids(self) -> Int64[np.ndarray, " i"]:
        """The images that have any, rising."""
        return np.unique(self.codes // MAX_KEYPOINTS)

    def table(self) -> pd.DataFrame:
        """Rows `image_id, keypoint`, sorted."""
        return pd.DataFrame(decode(self.codes, MAX_KEYPOINTS), columns=["image_id", "keypoint"])

    def of_images(self, image_ids: Int[np.ndarray, " i"]) -> "PrintedKeypoints":
        """Those of some images, ids rising."""
        if not len(self.codes):
            return self
        first = image_ids.astype(np.int64) * MAX_KEYPOINTS
        starts, ends = np.searchsorted(self.codes, first), np.searchsorted(self.codes, first + MAX_KEYPOINTS)
        parts = [self.codes[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        return PrintedKeypoints(codes=np.concatenate([np.empty(0, dtype=np.int64), *parts]))

    def beside(
        self, image_id1: int, image_id2: int, inliers: UInt32[np.ndarray, "n 2"]
    ) -> UInt32[np.ndarray, "k 2"]:
        """The matches of two images that lie on print in neither."""
        if not len(self.codes):
            return inliers
        on_print = self._has(image_id1, inliers[:, 0]) | self._has(image_id2, inliers[:, 1])
        return np.asarray(inliers[~on_print])

    def _has(self, image_id: int, keypoints: UInt32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        codes = encode(np.full(len(keypoints), image_id), keypoints, MAX_KEYPOINTS)
        place = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        found: Bool[np.ndarray, " n"] = self.codes[place] == codes
        return found
