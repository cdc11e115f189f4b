"""Rank the photos of several folders of descriptors as if they were one, each in a task of its own."""

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import StoreMeta, read_meta
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.one_folder import Found, best_of
from cnnimretrieval.search.ranking import Answer, Hit, described_queries


def rank_folders(
    network: RetrievalNetwork,
    folders: Sequence[Path],
    queries: Sequence[ImageRequest],
    top: int,
    executor: Executor,
    *,
    device: str = "cpu",
    workers: int = 0,
) -> list[Answer]:
    """The `top` best photos of all `folders` for each query, each called by its full path.

    Descriptors are read by the tasks only, and names, too, but for those that are found: what a folder holds
    has to fit where its task runs. Equal scores by the order of the folders, then of their rows: the ranking
    is that of one folder with all rows, if no index approximates it.
    ValueError when another network made a folder, or one was not extracted as the first was; OSError for a
    query that cannot be read.
    """
    metas = [read_meta(folder) for folder in folders]
    for folder, meta in zip(folders, metas, strict=True):
        _require_same(folder, meta, folders[0], metas[0])
        meta.require_network(network)
    vectors = described_queries(network, metas[0], queries, device=device, workers=workers)
    tasks = [
        executor.submit(
            best_of, folder.resolve(), vectors, top, meta.network, has_regions=meta.regions is not None
        )
        for folder, meta in zip(folders, metas, strict=True)
    ]
    found: list[list[list[Found]]] = [task.result() for task in tasks]
    tops = [Path(meta.photos) for meta in metas]
    answers = []
    for number, query in enumerate(queries):
        hits = [
            Hit(name=str(tops[folder] / one.name), score=one.score, box=one.box)
            for folder, one in merged([of_folder[number] for of_folder in found], top)
        ]
        answers.append(Answer(query=query.path, hits=tuple(hits)))
    return answers


def merged(found: Sequence[Sequence[Found]], top: int) -> list[tuple[int, Found]]:
    """The `top` best of what each folder gave, best first, with the number of its folder."""
    every = [(folder, one) for folder, its in enumerate(found) for one in its]
    # Sorting keeps the order of equals: that of the folders, and of the rows in each.
    return sorted(every, key=lambda one: -one[1].score)[:top]


def _require_same(folder: Path, meta: StoreMeta, first: Path, wanted: StoreMeta) -> None:
    # How many photos went through the network together changes nothing.
    extraction = meta.extraction.model_copy(update={"batch_size": wanted.extraction.batch_size})
    if (meta.network, extraction) != (wanted.network, wanted.extraction):
        raise ValueError(
            f"descriptors {folder}: expected them made as those in {first}, by network {wanted.network[:12]} "
            f"with {wanted.extraction}, got network {meta.network[:12]} with {extraction}; extract all "
            "folders in one way"
        )
