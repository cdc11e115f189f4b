"""Writes WORK/report/models.html: every drawn model in 3D, on one page that needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from experiments.report.scene import MOST_POINTS, scene
from experiments.report.upright import Upright
from groundwork.files import atomic_path
from sfm.model import Model

NAME = "models.html"


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnModel:
    """A model with its number in WORK/sfm/models and as it stands upright."""

    name: str
    model: Model
    view: Upright


def write_viewer(models: Sequence[DrawnModel], report: Path, environment: Environment) -> Path:
    """Write the page: the plotting library once, the models' data beside it, one model drawn at a time.

    models.html#3 opens model 3. The page is apart from index.html, which opens at once without it.
    """
    text = environment.get_template(NAME).render(
        models=models,
        most_points=MOST_POINTS,
        figures=[Markup(scene(one.model, one.view).to_json()) for one in models],
        library=Markup(get_plotlyjs()),
    )
    path = report / NAME
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path
