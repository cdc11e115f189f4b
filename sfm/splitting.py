"""Places too large for one mapping task to overlapping parts, cut where the match graph is thin.

Recursive bisection by the normalised cut: J. Shi and J. Malik, "Normalized cuts and image segmentation",
TPAMI 2000. Parts overlap as in COLMAP's hierarchical mapper, but their models are not merged: they are models
of one place.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from sfm.pair_table import image_rows

# A cut leaves at least this share of the images on either side, as long as both sides hang together.
_MIN_SHARE = 0.25
# Loose pieces change sides only if that leaves this share.
_LEAST_SHARE = 0.1
# Graphs up to this size are solved densely, which is exact, as quick, and never random.
_DENSE = 1000


def split_places(
    pairs: pd.DataFrame,
    place_of_image: Int[np.ndarray, " n"],
    rank: Int[np.ndarray, " n"],
    max_images: int,
    overlap: int,
) -> pd.DataFrame:
    """The parts of every place of more than `max_images`, as rows `place, part, image_id`.

    `pairs` are trusted pairs (`sfm.pair_table`); images are taken in the order of their `rank`.
    Places that stay whole have no row.
    """
    sizes = np.bincount(place_of_image[place_of_image >= 0])
    ends = image_rows(pairs)
    found = [np.empty((0, 3), dtype=np.int64)]
    for place in np.flatnonzero(sizes > max_images).tolist():
        images = np.flatnonzero(place_of_image == place)
        images = images[np.argsort(rank[images])]
        own = place_of_image[ends[:, 0]] == place
        inliers = pairs["inliers"].to_numpy(dtype=np.float64)[own]
        graph = _graph(np.searchsorted(rank[images], rank[ends[own]]), inliers, len(images))
        for part, rows in enumerate(split(graph, max_images, overlap)):
            numbers = np.broadcast_to((place, part), (len(rows), 2))
            found.append(np.column_stack([numbers, images[rows] + 1]))
    return pd.DataFrame(np.concatenate(found), columns=["place", "part", "image_id"])


def split(graph: csr_array, max_images: int, overlap: int) -> list[Int[np.ndarray, " k"]]:
    """Rows of each part of a connected graph, rising; by the parts' first row before they overlap.

    `graph` holds the symmetric weights. Parts before the overlap are disjoint, cover all rows and, as a rule,
    hang together; each then takes over the `overlap` rows of others that are most strongly tied to it. With
    them it has at most `max_images` rows.
    """
    waiting, parts = [np.arange(graph.shape[0])], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= max_images - overlap:
            parts.append(rows)
            continue
        on_left = _bisect(graph[rows][:, rows])
        waiting += [rows[on_left], rows[~on_left]]
    parts.sort(key=lambda rows: int(rows[0]))
    return [np.sort(np.concatenate([rows, _strongest(graph, rows, overlap)])) for rows in parts]


def _graph(ends: Int[np.ndarray, "p 2"], weights: Float[np.ndarray, " p"], num_images: int) -> csr_array:
    both = np.concatenate([ends, ends[:, ::-1]])
    return csr_array((np.tile(weights, 2), (both[:, 0], both[:, 1])), shape=(num_images, num_images))


def _bisect(graph: csr_array) -> Bool[np.ndarray, " n"]:
    """Two sides of a graph, by the best normalised cut along its Fiedler vector.

    Both sides are connected, unless that would leave next to nothing of one: around a hub they cannot be.
    Of a graph that is not connected itself, the largest part is one side.
    """
    main = _main_part(graph, np.ones(graph.shape[0], dtype=np.bool_))
    if not main.all():
        return main
    order = np.argsort(_fiedler_vector(graph), kind="stable")
    cut = np.zeros(len(order), dtype=np.bool_)
    cut[order[: _best_cut(graph, order)]] = True
    # What does not hang together with the main part of its side has neighbours on the other side only.
    on_left = cut & _main_part(graph, cut)
    on_left |= ~on_left & ~_main_part(graph, ~on_left)
    smaller = min(on_left.sum(), (~on_left).sum())
    return on_left if smaller >= _LEAST_SHARE * len(order) else cut


def _fiedler_vector(graph: csr_array) -> Float[np.ndarray, " n"]:
    """The vector of the second smallest eigenvalue of the normalised Laplacian, entry 0 not positive."""
    degree = np.asarray(graph.sum(axis=1), dtype=np.float64)
    scale = 1.0 / np.sqrt(degree)
    # The largest eigenvalues of what is subtracted from the unit matrix are the smallest of the Laplacian.
    similar = diags_array(scale) @ graph @ diags_array(scale)
    size = len(degree)
    if size <= _DENSE:
        vectors = np.linalg.eigh(similar.toarray())[1][:, -2:]
    else:
        start = np.cos(np.arange(size))  # the solver would draw one
        try:
            vectors = eigsh(similar, k=2, which="LA", v0=start, tol=1e-5, ncv=64, maxiter=200)[1]
        except ArpackNoConvergence:  # a graph like a long chain: the distance from one end does as well
            return _distance_from_end(graph)
    second = np.asarray(vectors[:, 0] * scale)
    return second if second[0] <= 0 else -second


def _distance_from_end(graph: csr_array) -> Float[np.ndarray, " n"]:
    """Steps from the row that is farthest from the first one."""
    first = np.asarray(shortest_path(graph, method="D", unweighted=True, indices=0))
    return np.asarray(shortest_path(graph, method="D", unweighted=True, indices=int(first.argmax())))


def _best_cut(graph: csr_array, order: Int[np.ndarray, " n"]) -> int:
    """How many of the ordered rows come left, where cut / volume left + cut / volume right is smallest.

    Of cuts that are as good but for a hundredth, the most even one.
    """
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    edges = graph.tocoo()
    one, two = position[edges.coords[0]], position[edges.coords[1]]
    forward = one < two
    steps = np.zeros(len(order) + 1)
    np.add.at(steps, one[forward] + 1, edges.data[forward])
    np.add.at(steps, two[forward] + 1, -edges.data[forward])
    cut = np.cumsum(steps)[1:-1]
    volume = np.cumsum(np.asarray(graph.sum(axis=1))[order])
    ncut = cut / volume[:-1] + cut / (volume[-1] - volume[:-1])
    left = np.arange(1, len(order))
    allowed = np.minimum(left, len(order) - left) >= max(1, int(_MIN_SHARE * len(order)))
    good = left[allowed & (ncut <= 1.01 * ncut[allowed].min())]
    return int(good[np.abs(2 * good - len(order)).argmin()])


def _main_part(graph: csr_array, side: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The largest connected part of one side, of equal ones the first."""
    rows = np.flatnonzero(side)
    _, labels = connected_components(graph[rows][:, rows], directed=False)
    main = np.zeros(len(side), dtype=np.bool_)
    main[rows[labels == np.bincount(labels).argmax()]] = True
    return main


def _strongest(graph: csr_array, rows: Int[np.ndarray, " k"], number: int) -> Int[np.ndarray, " j"]:
    """The rows outside with the largest sum of weights to those inside, at most `number`."""
    ties = np.asarray(graph[rows].sum(axis=0), dtype=np.float64)
    ties[rows] = 0.0
    chosen = np.argsort(-ties, kind="stable")[:number]
    outside: Int[np.ndarray, " j"] = chosen[ties[chosen] > 0]
    return outside
