"""A ranking as a table or JSON."""

from collections.abc import Sequence
from typing import Any

from cnnimretrieval.search.ranking import Answer, Hit
from cnnimretrieval.search.rerank import RerankConfig
from groundwork.names import printable


def as_table(answers: Sequence[Answer]) -> str:
    """One block of lines a query: rank, score, inliers where geometry was looked for, name and box."""
    lines: list[str] = []
    verified = any(hit.inliers is not None for answer in answers for hit in answer.hits)
    for answer in answers:
        lines.append(printable(str(answer.query)))
        for place, hit in enumerate(answer.hits, start=1):
            box = "" if hit.box is None else "  " + ",".join(f"{side:g}" for side in hit.box)
            inliers = "" if not verified else f"  {'' if hit.inliers is None else f'{hit.inliers:,}':>7}"
            lines.append(f"{place:5d}  {hit.score:7.4f}{inliers}  {printable(hit.name)}{box}")
    return "\n".join(lines)


def as_json(answers: Sequence[Answer], rerank: RerankConfig) -> list[dict[str, Any]]:
    """The same as plain values: `[{query, hits: [{name, score, inliers?, box?}], rerank?}]`."""
    steps = rerank.model_dump(exclude_none=True)
    return [
        {"query": str(answer.query), "hits": [_plain(hit) for hit in answer.hits]}
        | ({"rerank": steps} if steps else {})
        for answer in answers
    ]


def _plain(hit: Hit) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": hit.name, "score": round(hit.score, 6)}
    if hit.inliers is not None:
        plain["inliers"] = hit.inliers
    return plain if hit.box is None else plain | {"box": list(hit.box)}
