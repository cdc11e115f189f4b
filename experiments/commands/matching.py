"""The command that matches two photos and draws what it found."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands import options
from experiments.exit_codes import UsageFault

if TYPE_CHECKING:
    from experiments.report.shown import Shown

_SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


def match(
    first: Annotated[Path, typer.Argument(metavar="A", help="A photo.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="Picture to write, .png or .jpg.")],
    features: Annotated[
        str,
        typer.Option(
            metavar="sift|NAME|MODEL",
            help="Local features: sift, a plug-in as features.method names one, or the folder of a network "
            "with a local head, whose attention is drawn, too.",
        ),
    ] = "sift",
    geometry: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="What inliers agree with: similarity, affine, homography or fundamental."
        ),
    ] = "homography",
    seed: options.Seed = None,
    as_json: options.Json = False,
) -> None:
    """Match two photos, and draw keypoints and inliers."""
    for path, name in ((first, "A"), (second, "B")):
        options.file(path, name)
    if out.suffix.lower() not in _SUFFIXES:
        raise UsageFault(f"--out: expected a name that ends in .png or .jpg, got {out}; choose another")
    from cnnimretrieval.local.pairing import PairConfig, pair
    from experiments.commands import photo_features
    from experiments.report.match_figure import match_caption, match_picture
    from experiments.settings.protocol import Protocol
    from groundwork.files import atomic_path

    values: dict[str, Any] = {
        "geometry": geometry,
        "seed": seed or 0,
        **photo_features.tolerances(features),
    }
    given = {"geometry": f"--geometry {geometry}", "seed": f"--seed {seed}"}
    config = Protocol(source="match", values=values, overrides=given).resolve(PairConfig)
    one, two = photo_features.shown([first, second], features, config.max_features)
    paired = pair(one.features, two.features, config)
    method = Path(features).name if photo_features.is_network(features) else features
    caption = match_caption(one, two, paired, method, geometry)
    content = match_picture(one, two, paired, caption, format=_SUFFIXES[out.suffix.lower()])
    with atomic_path(out) as unfinished:
        unfinished.write_bytes(content)
    if not as_json:
        print(f"{caption}\n{out}")
        return
    facts = {
        "a": str(first),
        "b": str(second),
        "features": features,
        "geometry": geometry,
        "keypoints": [len(one.features), len(two.features)],
        "matches": len(paired.matches),
        "inliers": paired.num_inliers,
        "matrix": paired.verified.matrix.tolist() if paired.num_inliers else None,
        "attention": [_attention(one), _attention(two)],
        "picture": str(out),
    }
    print(json.dumps(facts, indent=1))


def _attention(shown: "Shown") -> dict[str, float] | None:
    """The scores of a photo's places in short; None where nothing attends to them."""
    if shown.attention is None:
        return None
    scores = shown.attention.scores
    return {"mean": float(scores.mean()), "largest": float(scores.max())}
