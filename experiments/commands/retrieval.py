"""The commands that use a network: extract, search, evaluate."""

import json
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands import options
from experiments.exit_codes import UsageFault
from groundwork.lock import hold
from groundwork.names import counted

if TYPE_CHECKING:
    from cnnimretrieval.descriptors.store import DescriptorStore

# Whatever needs torch is imported inside the commands: --help must not wait for it.


def extract(
    model: options.Model,
    photos: options.Photos,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write: vectors.npy, images.parquet, meta.json.")
    ],
    scales: options.Scales = None,
    image_size: options.ImageSize = None,
    whitening: options.ApplyWhitening = True,
    whitening_from: options.WhiteningFrom = None,
    table: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE.csv", help="Only these: a line is name or name,x1,y1,x2,y2."),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Also N x N overlapping windows of each photo, for searches with details: `search` takes "
            "the best. 2 costs five times the memory and 2.8 times the time.",
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option("--local", help="Also local features, in DIR/local; needs a network with a local head."),
    ] = False,
    local_settings: Annotated[
        list[str],
        typer.Option(
            "--local-set",
            metavar="KEY=VALUE",
            help="One setting of --local: number, scales, image_size, min_percentile or max_overlap; may be "
            "given again.",
        ),
    ] = [],  # noqa: B006
    scheduler: options.Scheduler = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
) -> None:
    """Describe photos as a folder of descriptors; also under torchrun.

    Run it again to continue after an interruption.
    """
    options.folder(photos, "PHOTOS")
    if table is not None:
        options.file(table, "--list")
    from cnnimretrieval.descriptors import store
    from experiments import machine
    from experiments.commands import listing

    asked, on = listing.extraction(scales, image_size), machine.device(device)
    pyramid, parts = listing.pyramid(local_settings, asked=local), listing.regions(regions)
    if parts is not None and (local or table is not None):
        other = "--local" if local else "--list"
        raise UsageFault(f"--regions: expected it without {other}, got both; leave one out")
    count, engine = options.num_workers(workers), options.engine(workers, None, scheduler)
    with ExitStack() as stack:
        if (own := stack.enter_context(machine.ranks(on))) is None:
            return
        network = machine.load_network(model, weights, whitening_from)
        config = asked(network.config)
        if local:
            machine.require_local(network, model)
        if table is None:
            requests, passed_over = listing.all_below(photos, out)
        else:
            requests, passed_over = listing.listed(photos, table), {}
        stack.enter_context(hold(out))
        executor = None
        if scheduler is not None:
            executor = stack.enter_context(engine.open(photos, out, ["cnnimretrieval.descriptors.parts"]))
        found = store.extract(
            network,
            requests,
            photos,
            out,
            config,
            regions=parts,
            passed_over=passed_over,
            whiten=whitening,
            device=own,
            workers=count,
            executor=executor,
        )
        print(f"{_counts(found, out)}\n{out / 'vectors.npy'}")
        if local:
            from cnnimretrieval.local.extract import extract_local

            features = extract_local(network, requests, photos, out, pyramid, device=own, workers=count)
            print(f"{int(features.images['count'].sum()):,} local features of length {features.dim}")
            print(features.folder)


def _counts(found: "DescriptorStore", out: Path) -> str:
    """How many descriptors there are, and what was rejected why."""
    windows = f" of {found.images['name'].nunique():,} photos and their windows" if found.meta.regions else ""
    rejected = ""
    if len(found.rejected):
        reasons = counted(found.rejected["reason"])
        rejected = f", {len(found.rejected):,} rejected ({reasons}): {out / 'rejected.parquet'}"
    return f"{len(found.vectors):,} descriptors of length {found.vectors.shape[1]:,}{windows}{rejected}"


def search(
    model: options.Model,
    database: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `extract` wrote.")],
    queries: Annotated[list[Path], typer.Argument(metavar="QUERY", help="Photos to search with.")],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Photos to list for each query.")] = 10,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2", help="Search with this part of each query, in px of the upright photo."
        ),
    ] = None,
    whitening_from: options.WhiteningFrom = None,
    rerank: options.Rerank = [],  # noqa: B006
    local_index: Annotated[
        bool,
        typer.Option(
            "--local-index", help="By aggregated local features, of the index that `index --local` wrote."
        ),
    ] = False,
    min_confidence: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="P",
            help="Leave out results that are right with a smaller chance than this; the model needs a "
            "calibration, as `train` and `calibrate` write it.",
        ),
    ] = 0.0,
    also: Annotated[
        list[Path],
        typer.Option(
            "--also",
            metavar="DIR",
            help="Another folder that `extract` wrote in the same way, searched as if it were one with the "
            "first; may be given again. Each is searched by a process of its own.",
        ),
    ] = [],  # noqa: B006
    scheduler: options.Scheduler = None,
    as_json: options.Json = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
) -> None:
    """Rank the photos of an extracted folder, or of several, for each query."""
    for given in (database, *also):
        options.folder(given, "DIR", "extract the photos first")
    part = None if box is None else options.box(box, "--box")
    for query in queries:
        options.file(query, "QUERY")
    from cnnimretrieval.api import Describer
    from cnnimretrieval.search.confidence import read_calibration
    from cnnimretrieval.stages import search as find
    from experiments import machine
    from experiments.commands import ranking, reranking

    steps, on = reranking.settings(rerank), machine.device(device)
    network = machine.load_network(model, weights, whitening_from)
    engine, tasks = options.engine(workers, None, scheduler), "cnnimretrieval.search.one_folder"
    apart = also or scheduler is not None
    with engine.open(database, database, [tasks]) if apart else nullcontext() as executor:
        answers = find(
            Describer(network, on, read_calibration(model)),
            database,
            queries,
            top=top,
            box=part,
            rerank=steps,
            local_index=local_index,
            min_confidence=min_confidence,
            also=also,
            executor=executor,
            workers=options.num_workers(workers),
        )
    as_table = ranking.as_table(answers, min_confidence)
    print(json.dumps(ranking.as_json(answers, steps), indent=1) if as_json else as_table)


def evaluate(
    model: options.Model,
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK",
            help="oxford5k, paris6k, roxford5k, rparis6k, holidays, holidays-upright, gldv2, or a JSON file "
            "of judged queries: "
            '[{"query": NAME, "box": [x1, y1, x2, y2], "positives": [NAME, ...], "junk": [NAME, ...]}, ...]. '
            'Its names lie below --data; "box", in px of the upright photo, and "junk" may be left out. '
            "The query's own photo is junk unless it is a positive. Or a gnd_NAME.pkl of the reference "
            "toolbox, photos in DIR/test/NAME/jpg, DIR/NAME/jpg, DIR/jpg or DIR.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder of data that `download` writes; with a JSON file, of photos that are all searched.",
        ),
    ],
    scales: options.Scales = None,
    image_size: options.ImageSize = None,
    whitening: options.ApplyWhitening = True,
    whitening_from: options.WhiteningFrom = None,
    uncropped: Annotated[
        bool, typer.Option("--uncropped", help="Search with whole photos where queries have boxes.")
    ] = False,
    rerank: options.Rerank = [],  # noqa: B006
    database: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder that `extract` wrote of the photos to search, instead of them."
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The same of the queries, cut out of their photos."),
    ] = None,
    distractors: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="The same of photos to search in addition; may be given again."),
    ] = [],  # noqa: B006
    scheduler: options.Scheduler = None,
    as_json: options.Json = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
) -> None:
    """Score a network on a benchmark or on judged photos; also under torchrun."""
    options.folder(data, "--data")
    if scheduler is not None and not distractors:
        raise UsageFault("--scheduler: expected --distractors, which it searches, got none; leave it out")
    for folder in (database, queries, *distractors):
        if folder is not None:
            options.folder(folder, "descriptors", "extract the photos first")
    from cnnimretrieval.evaluation.evaluate import EvaluationConfig, ReadyDescriptors
    from cnnimretrieval.evaluation.evaluate import evaluate as score
    from experiments import machine
    from experiments.commands import evaluation_table, listing, reranking

    steps, on = reranking.settings(rerank), machine.device(device)
    asked = listing.extraction(scales, image_size)
    judged = listing.judged(benchmark, data)
    ready = ReadyDescriptors(database=database, queries=queries, distractors=tuple(distractors))
    count, engine = options.num_workers(workers), options.engine(workers, None, scheduler)
    shown, tasks = (distractors or [data])[0], ["cnnimretrieval.evaluation.ranks"]
    with ExitStack() as stack:
        if (own := stack.enter_context(machine.ranks(on))) is None:
            return
        network = machine.load_network(model, weights, whitening_from)
        config = EvaluationConfig(
            extraction=asked(network.config) if scales or image_size else None,
            whiten=whitening,
            uncropped=uncropped,
            rerank=steps,
        )
        executor = None
        if scheduler is not None:
            executor = stack.enter_context(engine.open(shown, shown, tasks))
        result = score(network, judged, config, ready, executor=executor, device=own, workers=count)
    table = evaluation_table
    print(json.dumps(table.as_json(result), indent=1) if as_json else table.as_table(result))
