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
) -> None:
    """Save an index of descriptors for `search` and `serve`.

    Run again, it adds and removes what changed.
    """
    options.folder(database, "DIR", "extract the photos first")
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
