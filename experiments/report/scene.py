"""One model as an interactive 3D figure: a cloud of points, and a small pyramid for each camera."""

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from scipy.spatial import cKDTree

from experiments.report.upright import Upright
from sfm.model import Model

# Points drawn of a model: turning it stays fluent, and the data of fifty models stay below 5 MB.
MOST_POINTS = 5_000
CAMERA_COLOUR = "#f08c3a"
# How deep a camera's pyramid is, as a share of the scene's diagonal: at least and at most.
_FRUSTUM_SHARES = (0.015, 0.03)
# A pyramid's corners in the order of one stroke: NaN lifts the pen before the next camera.
_STROKE = (0, 1, 2, 0, 3, 4, 0, 1, 4, 3, 2)


def scene(model: Model, view: Upright) -> go.Figure:
    """The model set upright, with axes of equal unit; hovering over a camera tells the photo's name."""
    shown = sample(view.points, MOST_POINTS).astype(np.float32)
    corners = frusta(model, view, _frustum_depth(shown, view.centres))
    strokes = np.full((model.num_images, len(_STROKE) + 1, 3), np.nan, dtype=np.float32)
    strokes[:, :-1] = corners[:, _STROKE]
    figure = go.Figure(
        [
            _points(shown),
            _trace(
                strokes.reshape(-1, 3),
                mode="lines",
                line={"color": CAMERA_COLOUR, "width": 2},
                hoverinfo="skip",
            ),
            _trace(
                view.centres.astype(np.float32),
                mode="markers",
                marker={"color": CAMERA_COLOUR, "size": 2},
                text=[_escaped(name) for name in model.names],
                hovertemplate="%{text}<extra></extra>",
            ),
        ]
    )
    axis = {"visible": False, "showspikes": False}
    figure.update_layout(
        template="none",
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#98a2b3", "activecolor": "#667085"},
        hoverlabel={"bgcolor": "#1b2029", "font": {"color": "#e7eaf0"}},
        scene={
            **{"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "data"},
            # Seen from behind the cameras and a little above them.
            "camera": {"eye": {"x": 0.35, "y": -1.5, "z": 0.6}, "up": {"x": 0, "y": 0, "z": 1}},
        },
    )
    return figure


def frusta(model: Model, view: Upright, depth: float) -> Float[np.ndarray, "n 5 3"]:
    """Apex and the four corners of each camera's view at `depth` before it: the true angle of view."""
    half = 0.5 * depth * model.sizes / model.focal_px[:, None]
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    rays = np.zeros((model.num_images, 5, 3))
    rays[:, 1:, :2] = signs * half[:, None]
    rays[:, 1:, 2] = depth
    # Rows of the rotation are the camera's axes: rays @ rotation turns from the camera into the scene.
    corners: Float[np.ndarray, "n 5 3"] = view.centres[:, None] + rays @ view.rotations
    return corners


def sample(points: Float[np.ndarray, "m 3"], most: int) -> Float[np.ndarray, "k 3"]:
    """At most `most` of the points, always the same ones."""
    if len(points) <= most:
        return points
    chosen: Float[np.ndarray, "k 3"] = points[
        np.sort(np.random.default_rng(0).choice(len(points), most, replace=False))
    ]
    return chosen


def _points(points: Float[np.ndarray, "k 3"]) -> go.Scatter3d:
    low, high = np.quantile(points[:, 2], (0.02, 0.98)) if len(points) else (0.0, 1.0)
    return _trace(
        points,
        mode="markers",
        marker={
            **{"size": 1.6, "color": points[:, 2], "colorscale": "Viridis"},
            **{"cmin": float(low), "cmax": float(high)},
        },
        hoverinfo="skip",
    )


def _trace(positions: Float[np.ndarray, "k 3"], **options: object) -> go.Scatter3d:
    x, y, z = positions.T
    return go.Scatter3d(x=x, y=y, z=z, **options)


def _frustum_depth(points: Float[np.ndarray, "k 3"], centres: Float[np.ndarray, "n 3"]) -> float:
    """As deep as cameras are apart, within limits: a crowd of cameras stays told apart."""
    diagonal = float(np.linalg.norm(np.ptp(np.concatenate([points, centres]), axis=0))) or 1.0
    distances = np.asarray(cKDTree(centres).query(centres, k=[2])[0])
    # One camera alone is infinitely far from the next.
    apart = float(np.median(distances))
    low, high = _FRUSTUM_SHARES
    return min(max(apart, low * diagonal), high * diagonal)


def _escaped(name: str) -> str:
    """The name as text: the figure reads a few HTML tags."""
    return name.replace("&", "&amp;").replace("<", "&lt;")
