"""The README.md of an exported network: what it is, what it learned from, what it reaches, how to use it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.result import TrainResult, read_result
from experiments.manifest import installed
from experiments.scoreboard import ROWS
from groundwork.files import read_json

_TAGS = ("image-retrieval", "image-similarity", "visual-place-recognition", "structure-from-motion")


def model_card(network: RetrievalNetwork, model: str) -> str:
    """Markdown with the front matter that model hubs read; scores and data where `model` is of a run."""
    folder = Path(model)
    trained = read_result(folder) if (folder / "metrics.json").is_file() else None
    counts = _json(folder.parent / "metrics.json") if trained is not None else {}
    manifest = _json(folder.parent / "manifest.json") if trained is not None else {}
    parts = [
        _front_matter(trained),
        f"# {_title(network)}",
        _what_it_is(network),
        _how_to_use(network),
        *([_data(counts, manifest), _scores(trained)] if trained is not None else []),
        _limits(trained),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(network: RetrievalNetwork) -> str:
    return f"Image retrieval with {network.config.backbone}, {network.config.pooling}"


def _front_matter(trained: TrainResult | None) -> str:
    """YAML, written as JSON values, which are YAML, too."""
    entries: dict[str, Any] = {
        "library_name": "cnnimretrieval",
        "pipeline_tag": "image-feature-extraction",
        "tags": list(_TAGS),
    }
    if trained is not None:
        entries["model-index"] = [_index(trained)]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def _index(trained: TrainResult) -> dict[str, Any]:
    scores = trained.evaluation[trained.kept]
    metrics = [
        {"type": "map", "name": "mAP", "value": round(scores.map, 4)},
        {"type": "recall", "name": "recall@1", "value": round(scores.recall_at_1, 4)},
    ]
    result = {
        "task": {"type": "image-feature-extraction", "name": "image retrieval"},
        "dataset": {"type": "own", "name": "held-out places of the training collection"},
        "metrics": metrics,
    }
    return {"name": trained.kept, "results": [result]}


def _what_it_is(network: RetrievalNetwork) -> str:
    config, whitening = network.config, network.whitening
    whitened = "not whitened" if whitening is None else f"whitened ({whitening.note})"
    dim = network.dim if whitening is None else whitening.dim
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (network.trunk.mean, network.trunk.std)
    )
    return (
        f"A photo becomes a vector of {dim:,} numbers and length 1; photos that show the same place or "
        "object have vectors near each other.\n\n"
        f"- backbone `{config.backbone}`, pooling `{config.pooling}`"
        f"{', regional' if config.regional else ''}, descriptors {whitened}\n"
        f"- RGB in [0, 1], mean {mean}, standard deviation {std}\n"
        f"- {sum(value.numel() for value in network.state_dict().values()):,} numbers, "
        f"fingerprint `{network.fingerprint()[:16]}`"
    )


def _how_to_use(network: RetrievalNetwork) -> str:
    size = "" if network.trunk.only_size is None else f", image_size={max(network.trunk.only_size)}"
    return (
        "## How to use it\n\n"
        "```python\n"
        "import cnnimretrieval as cr\n\n"
        'network = cr.load("THIS FOLDER")\n'
        f'vectors = network.describe(["a.jpg", "b.jpg"]{size})\n'
        "print(vectors @ vectors.T)\n"
        "```"
    )


def _data(counts: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    if not counts:
        return ""
    sfm, pairs = counts["sfm"], counts["pairs"]
    lines = [
        "## What it learned from",
        "",
        "No photo was labelled by anybody: structure from motion found which photos show the same thing, and "
        "camera geometry turned that into matching pairs.",
        "",
        f"- {sfm['images']:,} files, {sfm['registered']:,} of them photos that were registered in "
        f"{sfm['models']:,} 3D models of {sfm['places']:,} places",
        f"- {pairs['positives']:,} matching pairs of {pairs['queries']:,} queries",
    ]
    if manifest:
        packages = manifest.get("packages", installed())
        versions = ", ".join(
            f"{name} {packages[name]}" for name in ("cnnimretrieval", "torch") if name in packages
        )
        lines += [
            f"- protocol {manifest['protocol']}, seed {manifest['seed']}, {versions}; SHA-256 of the "
            f"collection `{manifest['input_sha256'][:16]}`",
        ]
    return "\n".join(lines)


def _scores(trained: TrainResult) -> str:
    scored = trained.evaluation[trained.kept]
    lines = [
        "## What it reaches",
        "",
        f"On {scored.queries:,} queries of {scored.places:,} held-out places of the same collection, "
        "searched among photos that nothing was fitted to; means over places.",
        "",
        "| network | mAP | recall@1 |",
        "|---|---|---|",
    ]
    for row in sorted(trained.evaluation, key=list(ROWS).index):
        scores, mark = trained.evaluation[row], " (this one)" if row == trained.kept else ""
        lines.append(f"| {ROWS[row]}{mark} | {scores.map:.4f} | {scores.recall_at_1:.4f} |")
    return "\n".join([*lines, "", f"{trained.train.verdict[0].upper()}{trained.train.verdict[1:]}."])


def _limits(trained: TrainResult | None) -> str:
    known = (
        "The scores are of the collection that it was trained on, of places that were kept out of training; "
        "of other collections they say little. "
        if trained is not None
        else "It was not scored where it comes from. "
    )
    return (
        "## Limits\n\n"
        f"{known}Training starts from weights of the backbone's library: its licence holds for them, and "
        "that of the photos for what was learned from those."
    )


def _json(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return found
