import numpy as np
import pandas as pd

from sfm.printed import PrintedKeypoints

PRINTED = PrintedKeypoints.of(np.array([7, 2, 7, 2**31 - 2, 7]), np.array([5, 0, 3, 2**31 - 2, 5]))


def test_a_keypoint_is_there_once_by_image_then_number() -> None:
    table = PRINTED.table()
    assert table.to_numpy().tolist() == [[2, 0], [7, 3], [7, 5], [2**31 - 2, 2**31 - 2]]
    assert PRINTED.image_ids.tolist() == [2, 7, 2**31 - 2]
    assert PrintedKeypoints.of_table(table).codes.tolist() == PRINTED.codes.tolist()


def test_matches_on_print_at_either_end_are_left_out() -> None:
    inliers = np.array([[5, 1], [4, 0], [3, 9], [0, 2], [6, 6]], dtype=np.uint32)
    assert PRINTED.beside(7, 2, inliers).tolist() == [[0, 2], [6, 6]]
    assert PRINTED.beside(3, 4, inliers).tolist() == inliers.tolist()
    assert PrintedKeypoints().beside(7, 2, inliers) is inliers


def test_some_images_and_all_together() -> None:
    some = PRINTED.of_images(np.array([1, 2, 3, 7]))
    assert some.table().to_numpy().tolist() == [[2, 0], [7, 3], [7, 5]]
    more = PrintedKeypoints.of_table(pd.DataFrame({"image_id": [7, 1], "keypoint": [5, 8]}))
    together = PrintedKeypoints.union([some, more])
    assert together.table().to_numpy().tolist() == [[1, 8], [2, 0], [7, 3], [7, 5]]
    assert len(PrintedKeypoints().of_images(np.array([1]))) == len(PrintedKeypoints.union([])) == 0
