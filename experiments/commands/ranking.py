"""A ranking as a table or JSON."""

from collections.abc import Sequence
from typing import Any

from cnnimretrieval.search.ranking import Answer, Hit
from cnnimretrieval.search.rerank import RerankConfig
from groundwork.names import printable


def as_table(answers: Sequence[Answer], min_confidence: float = 0.0) -> str:
    """One block of lines a query: rank, score, inliers where geometry was looked for, name and box.

    Where a confidence is asked for, it stands behind the score, and a query without a result says so.
    """
    lines: list[str] = []
    verified = any(hit.inliers is not None for answer in answers for hit in answer.hits)
    for answer in answers:
        lines.append(printable(str(answer.query)))
        if min_confidence > 0.0 and not answer.hits:
            lines.append(f"    nothing with a confidence of {min_confidence:g} or more")
        for place, hit in enumerate(answer.hits, start=1):
            box = "" if hit.box is None else "  " + ",".join(f"{side:g}" for side in hit.box)
            inliers = "" if not verified else f"  {'' if hit.inliers is None else f'{hit.inliers:,}':>7}"
            shown = min_confidence > 0.0 and hit.confidence is not None
            sure = f"  {100.0 * (hit.confidence or 0.0):5.1f} %" if shown else ""
            lines.append(f"{place:5d}  {hit.score:7.4f}{sure}{inliers}  {printable(hit.name)}{box}")
    return "\n".join(lines)


def as_json(answers: Sequence[Answer], rerank: RerankConfig) -> list[dict[str, Any]]:
    """The same as plain values: `[{query, hits: [{name, score, confidence?, inliers?, box?}], rerank?}]`."""
    steps = rerank.model_dump(mode="json", exclude_none=True)
    return [
        {"query": str(answer.query), "hits": [_plain(hit) for hit in answer.hits]}
        | ({"rerank": steps} if steps else {})
        for answer in answers
    ]


def _plain(hit: Hit) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": hit.name, "score": round(hit.score, 6)}
    if hit.confidence is not None:
        plain["confidence"] = round(hit.confidence, 4)
    if hit.inliers is not None:
        plain["inliers"] = hit.inliers
    return plain if hit.box is None else plain | {"box": list(hit.box)}
