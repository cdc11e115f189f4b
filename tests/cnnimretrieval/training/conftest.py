"""What tests of training share."""

import pytest

from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.training.photos.descriptions import Descriptions


@pytest.fixture
def descriptions(collection, heldout, tmp_path):
    """Of the collection and its held-out queries, at 64 px."""
    return Descriptions(
        collection=collection,
        queries=query_set(heldout, collection.table, collection.photos),
        folder=tmp_path / "descriptors",
        content="k",
        image_size=64,
        device="cpu",
        workers=0,
    )
