"""Tables about a reconstruction: what each stage took, what candidates came to, and how good the models are.

Runs of older versions recorded less: what is not known is shown as a dash, or its table is left out.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.report.reading import Json, RunFiles
from experiments.report.tables import reasons

_UNKNOWN = "–"
_ORDER = ("scan", "features", "vlad", "candidates", "matching", "second", "graph", "mapping", "import")
_ORIGINS = {
    "all": "every pair of a small collection",
    "vlad": "near in VLAD of the photos' SIFT",
    "trees": "in a spanning tree of VLAD's similarities",
    "descriptors": "near in the given descriptors",
    "gps": "taken near each other",
    "list": "given list",
}
_MEASURES = (
    ("images", "photos", "{:,.0f}"),
    ("registered_share", "share of its component's photos", "{:.0%}"),
    ("points", "points", "{:,.0f}"),
    ("track_length", "photos that see a point, mean", "{:.2f}"),
    ("observations", "points that a photo sees, mean", "{:,.0f}"),
    ("reprojection_error_px", "reprojection error in px, mean", "{:.2f}"),
    ("seconds", "seconds of mapping", "{:.1f}"),
)
# The stages' own facts of how they ran; all others count what they found.
_RUNNING = {"seconds", "cpu_seconds", "peak_bytes", "parent_peak_bytes", "tasks", "retries", "quarantined"}
# Facts that have a table of their own.
_SHOWN_APART = {"yield"}


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What a stage took; text, but for the seconds that its bar is drawn from."""

    stage: str
    seconds: float
    cpu_seconds: str
    task_memory: str
    parent_memory: str
    tasks: str
    retries: str
    quarantined: str


@dataclass(frozen=True, kw_only=True)
class YieldRow:
    """Pairs that one source of candidates named; a pair of two sources counts in both."""

    origin: str
    pairs: int
    verified: int
    trusted: int

    @property
    def share(self) -> float:
        """Trusted pairs of the pairs tried."""
        return self.trusted / self.pairs


def stage_rows(files: RunFiles) -> list[StageRow]:
    """Stages in order; mining and training know their seconds only."""
    rows = [_stage_row(stage, facts) for stage, facts in _in_order(files.sfm or {})]
    for name, part in (("mining", files.pairs), ("training", files.train)):
        if part and "seconds" in part:
            rows.append(_stage_row(name, {"seconds": part["seconds"]}))
    return rows


def stage_facts(sfm: Json) -> list[tuple[str, list[tuple[str, str]]]]:
    """What each stage counted, as recorded: (stage, [(what, number)]), counts by reason spelt out."""
    found = []
    for stage, facts in _in_order(sfm):
        counts = [(key, value) for key, value in facts.items() if key not in _RUNNING | _SHOWN_APART]
        rows = [row for key, value in counts for row in _spelt_out(key, value)]
        if rows:
            found.append((stage, rows))
    return found


def yield_rows(tried: pd.DataFrame, trusted: pd.DataFrame) -> list[YieldRow]:
    """How many pairs each source named, and how many of them held: `tried` and `trusted` have the origins."""
    verified = tried[tried["inliers"] > 0]
    pairs, held, kept = (_by_source(table["origin"]) for table in (tried, verified, trusted))
    return [
        YieldRow(
            origin=_ORIGINS.get(source, source), pairs=number, verified=held[source], trusted=kept[source]
        )
        for source, number in reasons(pairs)
    ]


def model_measures(described: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Smallest, median and largest value of each measure over the models, as far as it is recorded."""
    rows = []
    for column, title, form in _MEASURES:
        if column in described and len(described):
            values = described[column].to_numpy(dtype=float)
            rows.append((title, [form.format(value) for value in np.quantile(values, (0, 0.5, 1)).tolist()]))
    return rows


def model_rows(described: pd.DataFrame, most: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of single models, the first `most`."""
    shown = [(column, title, form) for column, title, form in _MEASURES if column in described]
    header = ["model", "place", *(["way"] if "way" in described else []), *(title for _, title, _ in shown)]
    rows = []
    for row in described.head(most).to_dict("records"):
        way = [str(row["way"])] if "way" in row else []
        values = [form.format(row[column]) for column, _, form in shown]
        rows.append([str(row["model"]), str(row["place"]), *way, *values])
    return header, rows


def _in_order(sfm: Json) -> list[tuple[str, Json]]:
    """Stages with their facts, known ones in the order in which they run."""
    stages: dict[str, Json] = sfm.get("stages", {})
    known = [stage for stage in _ORDER if stage in stages]
    return [(stage, stages[stage]) for stage in [*known, *sorted(set(stages) - set(_ORDER))]]


def _stage_row(stage: str, facts: Json) -> StageRow:
    def number(key: str, form: str = "{:,}") -> str:
        return form.format(facts[key]) if key in facts else _UNKNOWN

    def memory(key: str) -> str:
        return f"{facts[key] / 1e6:,.0f} MB" if facts.get(key) else _UNKNOWN

    return StageRow(
        stage=stage,
        seconds=float(facts["seconds"]),
        cpu_seconds=number("cpu_seconds", "{:,.1f}"),
        task_memory=memory("peak_bytes"),
        parent_memory=memory("parent_peak_bytes"),
        tasks=number("tasks"),
        retries=number("retries"),
        quarantined=number("quarantined"),
    )


def _spelt_out(key: str, value: object) -> list[tuple[str, str]]:
    """A fact as rows of text: of counts by reason the most frequent first, of other groups one by one."""
    if isinstance(value, dict) and all(isinstance(number, int) for number in value.values()):
        return [(f"{key}: {reason}", f"{number:,}") for reason, number in reasons(value)]
    if isinstance(value, dict):
        return [row for inner, part in value.items() for row in _spelt_out(f"{key}: {inner}", part)]
    return [(key, f"{value:,}" if isinstance(value, int) else str(value))]


def _by_source(origins: pd.Series) -> Counter[str]:
    """Pairs by source: a few kinds of origin are taken apart, not millions of pairs."""
    found: Counter[str] = Counter()
    for origin, number in origins.value_counts(sort=False).items():
        found.update(dict.fromkeys(str(origin).split("+"), number))
    return found
