"""Photos that are learned from together: tuples, or a cluster's share of a batch, and their pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cnnimretrieval.descriptors.images import ImageRequest, open_request, to_levels
from cnnimretrieval.training.tuples import Collection


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Rows of the pair table, a query first, -1 where a group has fewer; `requests` shows each query."""

    rows: Int[np.ndarray, "g k"]
    requests: tuple[ImageRequest, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, order: Int[np.ndarray, " o"]) -> "Groups":
        """The groups of these positions, in this order."""
        return Groups(rows=self.rows[order], requests=tuple(self.requests[number] for number in order))


class LoadedGroup(NamedTuple):
    """Levels of the images of a group that there are, each in its own size, and their rows."""

    pictures: list[UInt8[Tensor, "3 _ _"]]
    rows: list[int]


class GroupDataset(Dataset[LoadedGroup]):
    """Groups as pictures of longest side `image_size`."""

    def __init__(self, groups: Groups, collection: Collection, image_size: int) -> None:
        self.groups = groups
        self.collection = collection
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> LoadedGroup:
        """Load one group; OSError naming the photo that cannot be read."""
        query, *others = self.groups.rows[number].tolist()
        rows = [query, *(row for row in others if row >= 0)]
        requests = [self.groups.requests[number], *(self.collection.whole(row) for row in rows[1:])]
        pictures = [to_levels(open_request(request, self.image_size)) for request in requests]
        return LoadedGroup(pictures=pictures, rows=rows)


def load_groups(
    groups: Groups, collection: Collection, image_size: int, *, together: int, workers: int
) -> Iterator[list[LoadedGroup]]:
    """The groups in order, `together` at a time, the last ones fewer; `workers` processes read ahead."""
    dataset = GroupDataset(groups, collection, image_size)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    waiting: list[LoadedGroup] = []
    for loaded in tqdm(loader, desc="learn", unit="group", total=len(dataset), disable=None):
        waiting.append(loaded)
        if len(waiting) == together:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _as_it_is(loaded: Any) -> Any:
    return loaded
