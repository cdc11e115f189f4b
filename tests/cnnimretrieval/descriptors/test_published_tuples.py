"""An epoch's tuples of the reference toolbox, from its own files: the same rows, negatives and pictures."""

import json
import lzma

import numpy as np
import pytest

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.descriptors.tensors import to_levels
from cnnimretrieval.networks.reference import read_reference
from pairs.negatives import NegativesConfig, mine_hard_negatives
from pairs.published_pairs import photo_of
from pairs.retrieval_sfm_files import read_training_pairs


@pytest.fixture(scope="module")
def expected(any_golden):
    return json.loads((any_golden / "pairs" / "expected.json").read_text())


def _side(golden, part):
    sides = read_training_pairs(golden / "pairs" / "train" / "retrieval-SfM-tiny" / "retrieval-SfM-tiny.pkl")
    return sides[part == "val"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_drawn_rows_are_the_same_pairs(any_golden, expected, part):
    pairs, wanted = _side(any_golden, part), expected[part]
    assert pairs.query[wanted["drawn_rows"]].tolist() == wanted["qidxs"]
    assert pairs.positive[wanted["drawn_rows"]].tolist() == wanted["pidxs"]
    assert (len(pairs.cids), len(pairs.query)) == (wanted["n_images"], wanted["n_pairs"])
    first = f"train/retrieval-SfM-tiny/ims/{photo_of(pairs.cids[0])}"
    assert first == wanted["first_image"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_negatives_and_pictures_are_the_same(shared, part, tmp_path):
    golden = shared / "golden"
    folder = golden / "pairs" / "train" / "retrieval-SfM-tiny"
    if not folder.is_dir():
        pytest.skip("needs ../shared/golden/pairs")
    packed = golden / "network" / "gem.pth.xz"
    (tmp_path / "gem.pth").write_bytes(lzma.decompress(packed.read_bytes()))
    network = read_reference(tmp_path / "gem.pth")
    expected = json.loads((golden / "pairs" / "expected.json").read_text())
    pairs, wanted = _side(golden, part), expected[part]
    query, pool = np.array(wanted["qidxs"]), np.array(wanted["pool"])

    def requests(rows):
        return [ImageRequest(path=folder / "ims" / photo_of(pairs.cids[row])) for row in rows]

    size = wanted["imsize"]
    vectors = describe(
        network, [*requests(query), *requests(pool)], ExtractConfig(image_size=size)
    ).require_all()
    queries, in_pool = vectors[: len(query)], vectors[len(query) :]
    found = mine_hard_negatives(
        queries,
        pairs.cluster[query],
        in_pool,
        pairs.cluster[pool],
        pairs.cluster[pool],
        NegativesConfig(num_negatives=wanted["nnum"]),
    )
    assert pool[found.pool_row].tolist() == wanted["nidxs"]
    distances = np.linalg.norm(queries[:, None] - in_pool[found.pool_row] + 1e-6, axis=2)
    assert distances.mean() == pytest.approx(wanted["mean_negative_distance"], abs=1e-4)
    first = [query[0], wanted["pidxs"][0], *wanted["nidxs"][0]]
    shapes = [[1, *to_levels(open_request(request, size)).shape] for request in requests(first)]
    assert shapes == wanted["first_item_shapes"]
