"""The command that saves an index of an extracted folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from experiments.commands import options
from groundwork.lock import hold


def index(
    database: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `extract` wrote.")],
    kind: Annotated[
        Literal["auto", "exact", "hnsw", "ivfpq"],
        typer.Option(
            metavar="KIND",
            help="exact; by faiss, which may miss some: hnsw, a graph, or ivfpq, codes that take less "
            "memory; or auto: exact up to 2 GiB of descriptors (a million of length 512), then "
            "hnsw where it fits into half of the free memory, else ivfpq.",
        ),
    ] = "auto",
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="Of the local features that `extract --local` wrote, for search --local-index."
        ),
    ] = False,
    words: Annotated[int, typer.Option(min=2, metavar="N", help="Words of the codebook of --local.")] = 4096,
) -> None:
    """Save an index of descriptors for `search` and `serve`, or of local features.

    Run again, it adds and removes what changed.
    """
    options.folder(database, "DIR", "extract the photos first")
    if local:
        _index_locally(database, words)
        return
    from cnnimretrieval.descriptors.store import read_store
    from cnnimretrieval.search.approximate import ApproximateConfig
    from cnnimretrieval.search.index import build_index, choose, open_index
    from cnnimretrieval.search.recall import measure

    with hold(database):
        store = read_store(database)
        chosen = choose(*store.vectors.shape) if kind == "auto" else kind
        network = store.meta.network
        built = build_index(database, store.vectors, network, chosen, ApproximateConfig())
        opened = open_index(database, store.vectors, network)
    n, dim = store.vectors.shape
    changes = f"{built.kept:,} kept, {built.added:,} added, {built.removed:,} removed"
    print(f"{chosen} index of {n:,} descriptors of length {dim:,} ({changes})")
    quality = measure(opened)
    milliseconds = f"{1e3 * quality.seconds:.3g} ms a query"
    if chosen == "exact":
        print(f"recall@10 1.0000, {milliseconds}")
    else:
        exact = f"exact search {1e3 * quality.exact_seconds:.3g} ms"
        print(f"recall@10 {quality.recall:.4f} against exact search, {milliseconds}, {exact}")


def _index_locally(database: Path, words: int) -> None:
    from cnnimretrieval.descriptors.store import read_store
    from cnnimretrieval.local.inverted_file import AsmkConfig, index_locally
    from cnnimretrieval.search.evidence import local_features

    with hold(database):
        store = local_features(database, read_store(database).images)
        built = index_locally(store, database, AsmkConfig(words=words))
    print(
        f"local index of {len(built.norms):,} photos: {len(built.photos):,} entries in {words:,} words, "
        f"{built.bytes_a_photo:,.0f} bytes a photo"
    )
