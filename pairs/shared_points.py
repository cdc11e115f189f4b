"""Where in a photo the 3D points lie that another photo sees, too: counts on a coarse grid."""

import numpy as np
from jaxtyping import Int, UInt8
from scipy.sparse import csr_array

from groundwork.orientation import upright_size, upright_xy
from pairs.viewpoint import blocks_of_pairs
from sfm.covisibility import visibility
from sfm.model import Model

CELLS = 8  # a side: 64 bytes a pair
_MOST = np.iinfo(np.uint8).max


def shared_points(
    model: Model,
    orientation: Int[np.ndarray, " n"],
    query: Int[np.ndarray, " p"],
    positive: Int[np.ndarray, " p"],
) -> UInt8[np.ndarray, "p cells cells"]:
    """For pairs of images of the model, how many shared points lie in each cell of the upright query.

    Rows of cells are from top to bottom; counts end at 255. `orientation` is EXIF's, of each image. Time and
    memory grow with the points that the images of the pairs see.
    """
    visible, cells = visibility(model), _cells(model, orientation)
    counts = np.zeros((len(query), CELLS * CELLS), np.uint8)
    for block in blocks_of_pairs(visible, query, positive):
        # A product is the cell, counted from 1, exactly where both images see the point.
        shared = cells[query[block]].multiply(visible[positive[block]]).tocsr()
        pair = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        bins = pair * CELLS**2 + (shared.data - 1)
        found = np.bincount(bins, minlength=shared.shape[0] * CELLS**2).clip(max=_MOST)
        counts[block] = found.reshape(-1, CELLS**2)
    return counts.reshape(-1, CELLS, CELLS)


def points_inside(
    counts: UInt8[np.ndarray, "cells cells"], box: tuple[float, float, float, float], size: tuple[int, int]
) -> int:
    """How many of the points lie in `box` (x1, y1, x2, y2) of an upright photo of this width and height.

    A cell is inside where its centre is.
    """
    centres = (np.arange(CELLS) + 0.5) / CELLS
    x, y = centres * size[0], centres * size[1]
    x1, y1, x2, y2 = box
    rows, columns = (y >= y1) & (y < y2), (x >= x1) & (x < x2)
    return int(counts[np.ix_(rows, columns)].sum())


def _cells(model: Model, orientation: Int[np.ndarray, " n"]) -> csr_array:
    """Like `visibility`, with the cell in which the image sees the point, counted from 1."""
    cell = np.empty(model.num_observations, np.int64)
    for image, seen in enumerate(model.observations_by_image()):
        width, height = (int(side) for side in model.sizes[image])
        turn = int(orientation[image])
        xy = upright_xy(model.track_xy[seen], width, height, turn)
        column, row = (CELLS * xy / upright_size(width, height, turn)).astype(int).clip(0, CELLS - 1).T
        cell[seen] = CELLS * row + column
    # A point that an image sees at two pixels is counted once.
    codes = model.track_image * model.num_points + model.track_point
    _, first = np.unique(codes, return_index=True)
    where = (model.track_image[first], model.track_point[first])
    return csr_array((cell[first] + 1, where), shape=(model.num_images, model.num_points))
