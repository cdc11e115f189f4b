"""All that the pages and the API share while a server runs."""

from dataclasses import dataclass
from pathlib import Path

from experiments.web.collection import Served
from experiments.web.glance import Glance
from experiments.web.matching import Matcher
from experiments.web.pictures import Pictures
from experiments.web.searching import Searcher


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """What is served, who searches and draws, and where uploads lie meanwhile.

    `steps` are the ways of re-ranking and what people call them; without a `matcher` no points are shown.
    """

    title: str
    served: Served
    searcher: Searcher
    pictures: Pictures
    glance: Glance
    matcher: Matcher | None
    uploads: Path
    max_bytes: int
    steps: dict[str, str]
