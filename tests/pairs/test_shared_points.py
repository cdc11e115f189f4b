from collections import Counter

import numpy as np
import pytest

from groundwork.orientation import upright_size, upright_xy
from pairs.shared_points import CELLS, points_inside, shared_points


def _plainly(model, orientation, query, positive):
    """Point by point, from the tracks."""
    seen = [{} for _ in range(model.num_images)]
    for image, point, xy in zip(model.track_image, model.track_point, model.track_xy, strict=True):
        seen[image].setdefault(int(point), xy)
    counts = np.zeros((len(query), CELLS, CELLS), int)
    for pair, (one, other) in enumerate(zip(query, positive, strict=True)):
        width, height = (int(side) for side in model.sizes[one])
        size = upright_size(width, height, int(orientation[one]))
        for point in seen[one].keys() & seen[other].keys():
            ((x, y),) = upright_xy(seen[one][point][None], width, height, int(orientation[one]))
            counts[
                pair, min(int(CELLS * y / size[1]), CELLS - 1), min(int(CELLS * x / size[0]), CELLS - 1)
            ] += 1
    return counts


@pytest.mark.parametrize("turn", [1, 6])
def test_counts_are_those_of_the_tracks(ring_model, turn):
    model = ring_model(2)
    orientation = np.full(model.num_images, turn)
    query, positive = np.nonzero(~np.eye(model.num_images, dtype=bool))
    found = shared_points(model, orientation, query, positive)
    np.testing.assert_array_equal(found, _plainly(model, orientation, query, positive))
    assert found.sum() > 0
    assert len(Counter(found.reshape(len(query), -1).argmax(axis=1).tolist())) > 1


def test_cells_are_inside_by_their_centres():
    counts = np.arange(CELLS * CELLS, dtype=np.uint8).reshape(CELLS, CELLS)
    assert points_inside(counts, (0, 0, 80, 40), (80, 40)) == counts.sum(dtype=int)
    # Columns of 10 px and rows of 5 px: centres at x = 15, 25 and y = 2.5.
    assert points_inside(counts, (15, 0, 26, 7), (80, 40)) == counts[0, 1] + counts[0, 2]
    assert points_inside(counts, (16, 0, 24, 7), (80, 40)) == 0
