"""The stages for programs: photos to models, to pairs, to a network, to descriptors that are searched.

Each does what the command of its name does; `experiments.programs` reads the settings of the first three from
a protocol, as commands do. What is done already with the same settings is not done again. Processes that
these functions start load the script that calls them: calls have to stand below
`if __name__ == "__main__":` there.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from cnnimretrieval.api import Describer, load
from cnnimretrieval.descriptors import reading
from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import Box, ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, read_store
from cnnimretrieval.descriptors.store import extract as extract_stage
from cnnimretrieval.descriptors.windows import RegionConfig
from cnnimretrieval.search.confidence import Sure
from cnnimretrieval.search.folders import rank_folders
from cnnimretrieval.search.index import open_index
from cnnimretrieval.search.ranking import Answer, rank, rank_locally
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.training.fine_tune import fine_tune as fine_tune_stage
from cnnimretrieval.training.result import TrainResult
from cnnimretrieval.training.settings.train_config import TrainConfig
from groundwork.child import preload
from groundwork.executors import LocalExecutor, SerialExecutor, usable_cores
from groundwork.folder import list_files, reasons_by_name, usable_names
from groundwork.lock import hold
from pairs.mine import MineConfig, MiningResult
from pairs.mine import mine as mine_stage
from sfm.outcome import ReconstructResult
from sfm.reconstruct import PRELOAD, ReconstructConfig
from sfm.reconstruct import reconstruct as reconstruct_stage

Location = str | PathLike[str]


def reconstruct(
    photos: Location, out: Location, config: ReconstructConfig, *, workers: int | None = None
) -> ReconstructResult:
    """Places and 3D models among the photos below `photos`, written to `out`.

    `workers` processes at a time, one a core when None. Errors are those of `sfm.reconstruct.reconstruct`.
    """
    # The stages that may follow in this process, too: its fork server starts once.
    preload(*PRELOAD, reading.__name__, *reading.EDITS)
    with LocalExecutor(usable_cores() if workers is None else workers) as executor:
        return reconstruct_stage(Path(photos), Path(out), config, executor)


def mine(sfm: Location, out: Location, config: MineConfig) -> MiningResult:
    """Training pairs, places and held-out queries from `sfm`, which `reconstruct` wrote, written to `out`."""
    with hold(Path(out)):
        return mine_stage(Path(sfm), Path(out), config)


def fine_tune(
    pairs: Location,
    out: Location,
    config: TrainConfig,
    *,
    weights: str = "pretrained",
    device: str = "cpu",
    workers: int | None = None,
) -> TrainResult:
    """Train on what `mine` wrote to `pairs`, whiten, score the held-out places; the network goes to `out`.

    `weights` of the backbone are the library's download, a file, or random.
    """
    count = usable_cores() if workers is None else workers
    with hold(Path(out)):
        return fine_tune_stage(Path(pairs), Path(out), config, weights=weights, device=device, workers=count)


def describe(
    model: Describer | Location, images: Sequence[Location | Image.Image], **options: Any
) -> Float[np.ndarray, "n d"]:
    """Unit rows of files or pictures, as `Describer.describe`, which also says what `options` there are."""
    return _opened(model).describe(images, **options)


def extract(
    model: Describer | Location,
    photos: Location,
    out: Location,
    config: ExtractConfig | None = None,
    *,
    regions: Sequence[int] = (),
    whiten: bool = True,
    executor: Executor | None = None,
    workers: int | None = None,
) -> DescriptorStore:
    """Describe every photo below `photos` into the folder `out`, for `search`; others are listed in it.

    `regions` n, or several, describe n x n overlapping windows beside each photo: `search` takes the best.
    `executor` describes photos in tasks, as on a cluster; without one it is done in this process.
    """
    describer, top = _opened(model), Path(photos)
    files = list_files(top, Path(out))
    with hold(Path(out)):
        return extract_stage(
            describer.network,
            [ImageRequest(path=top / name) for name in usable_names(files)],
            top,
            Path(out),
            config or ExtractConfig.meant_for(describer.network.config),
            regions=RegionConfig(grids=tuple(regions)) if regions else None,
            passed_over=reasons_by_name(files),
            whiten=whiten,
            device=describer.device,
            workers=usable_cores() if workers is None else workers,
            executor=executor,
        )


def search(
    model: Describer | Location,
    folder: Location,
    queries: Sequence[Location],
    *,
    top: int = 10,
    box: Box | None = None,
    rerank: RerankConfig | None = None,
    local_index: bool = False,
    min_confidence: float = 0.0,
    also: Sequence[Location] = (),
    executor: Executor | None = None,
    workers: int = 0,
) -> list[Answer]:
    """The `top` photos of the extracted `folder` for each of the query photos, best first.

    With `also`, photos of these folders among them, each called by its full path; each folder is searched in
    a task of `executor`, None: in this process. Nothing re-ranks them then, or tells their confidence.

    With `local_index` by aggregated local features, in place of global descriptors.

    `box` searches with a part of each, x1, y1, x2, y2 in px of the upright photo. The folder's index is used
    where it has one. Where the model has a calibration (`calibrate`) of such results they have a confidence;
    those below `min_confidence` are left out.
    ValueError when another network made the folder or nothing tells the confidence that is asked for, OSError
    for a query that is no photo.
    """
    if isinstance(queries, str | PathLike):
        raise TypeError(f"queries: expected a list of photos, got {queries!r}; put it into a list")
    describer, database = _opened(model), Path(folder)
    steps = rerank or RerankConfig()
    requests = [ImageRequest(path=Path(query), box=box) for query in queries]
    if also or executor is not None:
        if steps != RerankConfig() or local_index or min_confidence > 0.0:
            raise ValueError(
                "search: expected several folders to be searched by global descriptors alone, got "
                "re-ranking, the local index or a confidence; leave it out, or search one folder"
            )
        folders = [database, *map(Path, also)]
        tasks, device = executor or SerialExecutor(), describer.device
        return rank_folders(describer.network, folders, requests, top, tasks, device=device, workers=workers)
    store = read_store(database)
    sure = (
        None
        if describer.calibration is None
        else Sure(calibration=describer.calibration, least=min_confidence)
    )
    if min_confidence > 0.0 and local_index:
        raise ValueError(
            "min_confidence: expected results by global descriptors, got those of the local index; leave one "
            "out"
        )
    if min_confidence > 0.0 and sure is None:
        raise ValueError(
            "min_confidence: expected a model with a calibration, got one without; learn it by "
            "cnnimretrieval calibrate MODEL WORK/pairs"
        )
    if local_index:
        network, device = describer.network, describer.device
        return rank_locally(network, store, requests, top, steps, database, device=device, workers=workers)
    index = open_index(database, store.vectors, store.meta.network)
    return rank(
        describer.network,
        store,
        requests,
        top,
        steps,
        nearest=index.search,
        folder=database,
        sure=sure,
        device=describer.device,
        workers=workers,
    )


def _opened(model: Describer | Location) -> Describer:
    return model if isinstance(model, Describer) else load(model)
