"""A model and an extracted folder to what a server needs: checked first, then put together."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from cnnimretrieval.descriptors.store import read_store
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.confidence import Sure, applying, read_calibration
from cnnimretrieval.search.evidence import CACHE
from cnnimretrieval.search.index import open_index
from cnnimretrieval.search.photo_rows import ByPhoto, PhotoRows
from cnnimretrieval.search.rerank import RerankConfig
from experiments.exit_codes import UsageFault
from experiments.overview.groups import Group
from experiments.web.collection import Served
from experiments.web.glance import Glance, read_places
from experiments.web.matching import Matcher, if_possible
from experiments.web.pictures import Pictures
from experiments.web.searching import SPATIAL_STEP, STEPS, Describing, Limits, Searcher
from experiments.web.site import Site
from groundwork import lock
from groundwork.descriptor_folder import folder_key
from groundwork.executors import LocalExecutor, usable_cores
from groundwork.keys import key_of
from groundwork.memory import usable_bytes

logger = logging.getLogger(__name__)

PICTURES = "pictures"
# Of the memory that is free, what descriptors may take to be held there instead of being read at each search.
_HELD_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is served: descriptors in `folder` of the photos below `photos` (None: where they were extracted).

    `work` is a run that knows the places of the photos, if there is one.
    """

    folder: Path
    photos: Path | None = None
    work: Path | None = None
    device: str = "cpu"
    limits: Limits = field(default_factory=Limits)


@contextmanager
def assembled(network: RetrievalNetwork, model: str, serving: Serving) -> Iterator[Site]:
    """Everything a server needs; files of uploads, child processes and the lock end with the block.

    Pictures are kept in the folder's `pictures`, which one server at a time uses; where it cannot be written,
    for as long as the server runs.

    Raises:
        ValueError: another network made the descriptors, or they or their index are damaged.
        UsageFault: the photos are not there.
        groundwork.lock.FolderInUse: another server has the folder.

    """
    store = read_store(serving.folder)
    store.require_network(network)
    index = open_index(serving.folder, _held(store.vectors), store.meta.network)
    photos = _photos(serving, store.meta.photos)
    version = key_of(folder_key(serving.folder), str(photos.resolve()))[:12]
    photo_rows = None if store.meta.regions is None else PhotoRows.of_names(store.images["name"])
    served = Served(
        photos=photos, vectors=index.vectors, images=store.images, version=version, photo_rows=photo_rows
    )
    by_photo = None if photo_rows is None else ByPhoto(photo_rows, index.vectors, index.search)
    scales = store.meta.extraction.scales
    calibration = read_calibration(model)
    sure = None if calibration is None else Sure(calibration=calibration)
    # In the order in memory that convolutions like, as `describe` has it.
    network.to(serving.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    describing = Describing(
        network=network.eval(),
        extraction=store.meta.extraction,
        whitening=network.whitening_for(scales) if store.meta.whitening is not None else None,
        device=serving.device,
    )
    torch.set_num_threads(1)  # each search has a thread of its own
    with ExitStack() as stack:
        # A product on all cores waits, busily, for the one that another request is described on.
        stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
        uploads = Path(stack.enter_context(TemporaryDirectory(prefix="cnnimretrieval-uploads-")))
        cache = _pictures_folder(serving.folder, stack)
        children = LocalExecutor(usable_cores())
        stack.callback(children.shutdown, cancel_futures=True)
        threads = ThreadPoolExecutor(usable_cores(), thread_name_prefix="search")
        stack.callback(threads.shutdown, cancel_futures=True)
        matcher = if_possible(
            lambda: Matcher(
                served=served,
                children=children,
                threads=threads,
                cache=serving.folder / CACHE,
                max_megapixels=serving.limits.megapixels,
            )
        )
        yield Site(
            title=f"{photos.resolve().name}, by {model}",
            served=served,
            searcher=Searcher(
                served=served,
                describing=describing,
                nearest=by_photo or index.search,
                children=children,
                threads=threads,
                keypoints=serving.folder / CACHE,
                calibration=applying(sure, store, RerankConfig()),
                limits=serving.limits,
            ),
            pictures=Pictures(served=served, cache=cache, executor=children),
            glance=Glance(
                served=served, places=_places(serving, served), folder=serving.folder, executor=children
            ),
            matcher=matcher,
            uploads=uploads,
            max_bytes=int(serving.limits.megabytes * 1e6),
            steps=STEPS if matcher is None else STEPS | SPATIAL_STEP,
        )


def run_of(model: str) -> Path | None:
    """The run that a model belongs to, if its places are known: the folder around it."""
    around = Path(model).resolve().parent
    return around if Path(model).is_dir() and (around / "sfm" / "images.parquet").is_file() else None


def _held(vectors: np.ndarray) -> np.ndarray:
    """The descriptors in memory where they fit well, else as the memory map they are."""
    return np.array(vectors) if vectors.nbytes <= _HELD_SHARE * usable_bytes() else vectors


def _photos(serving: Serving, extracted: str) -> Path:
    photos = serving.photos or Path(extracted)
    if not photos.is_dir():
        raise UsageFault(
            f"PHOTOS: expected the folder that {serving.folder} was extracted from, got {photos}, which does "
            "not exist; say with --photos where it is now"
        )
    return photos


def _pictures_folder(folder: Path, stack: ExitStack) -> Path:
    """Where pictures are kept, held for this server alone."""
    cache = folder / PICTURES
    try:
        stack.enter_context(lock.hold(cache))
    except lock.FolderInUse:
        raise
    except OSError as error:
        logger.warning("%s: pictures are not kept there (%s), but made anew by each server", cache, error)
        return Path(stack.enter_context(TemporaryDirectory(prefix="cnnimretrieval-pictures-")))
    return cache


def _places(serving: Serving, served: Served) -> tuple[Group, ...]:
    return () if serving.work is None else read_places(serving.work, served)
