import numpy as np

from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.training.learning.batches import Examples, load_batches
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.settings.loop_config import LoopConfig


def _training(collection) -> Training:
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    return Training(network=network, collection=collection, config=LoopConfig(image_size=64), seed=1)


def _examples(collection, **changes):
    facts = {"num_positives": 1, "order": np.array([2, 0, 1]), "batch_size": 2}
    rows = np.array([[0, 1, 12, 2], [6, 7, 8, -1], [13, 12, -1, -1]])
    requests = tuple(collection.whole(row) for row in rows[:, 0])
    return Examples(rows=rows, requests=requests, **facts | changes)


def test_a_batch_holds_the_images_that_there_are_in_the_order_of_learning(collection):
    batches = list(load_batches(_examples(collection), _training(collection)))
    assert [[example.rows for example in batch] for batch in batches] == [
        [[13, 12], [0, 1, 12, 2]],
        [[6, 7, 8]],
    ]
    assert [[len(example.pictures) for example in batch] for batch in batches] == [[2, 4], [3]]
    assert batches[0][0].pictures[0].shape == (3, 48, 64)


def test_an_example_that_is_not_in_the_order_is_not_learned_from(collection):
    (batch,) = load_batches(_examples(collection, order=np.array([1])), _training(collection))
    assert [example.rows for example in batch] == [[6, 7, 8]]


def test_negatives_follow_the_positives(collection):
    assert _examples(collection).negatives.tolist() == [[12, 2], [8, -1], [-1, -1]]
    assert _examples(collection, num_positives=3).negatives.shape == (3, 0)
