import numpy as np

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.training.learning.batches import Examples
from cnnimretrieval.training.result import write_tuples
from groundwork.files import read_table

NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


def _examples(folder, negatives):
    rows = np.array([[0, 1, *negatives]])
    requests = (ImageRequest(path=folder / "a.jpg"),)
    return Examples(rows=rows, num_positives=1, requests=requests, order=np.array([0]), batch_size=1)


def test_the_examples_of_the_first_and_of_the_last_epoch_are_kept(tmp_path):
    for epoch, negatives in ((1, [2, 3]), (2, [3, -1]), (3, [2, -1])):
        write_tuples(tmp_path, NAMES, epoch, _examples(tmp_path, negatives))
    first, last = (read_table(tmp_path / f"tuples{end}.parquet") for end in ("-first", ""))
    assert (first["epoch"].tolist(), last["epoch"].tolist()) == ([1], [3])
    assert list(first["negatives"][0]) == ["c.jpg", "d.jpg"]
    assert list(last["negatives"][0]) == ["c.jpg"]
