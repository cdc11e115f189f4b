import numpy as np
import pandas as pd
import pytest

from sfm.pair_table import (
    COLUMNS,
    GEOMETRY_KINDS,
    MATCHED,
    TRUSTED,
    TRUSTED_KINDS,
    WATERMARK,
    image_ids,
    image_rows,
    is_trusted,
    pair_table,
)

IDS = np.array([[1, 3], [2, 3], [2, 7]], dtype=np.int32)


def test_columns_get_their_types() -> None:
    given = {"geometry_kind": [2, 1, 7], "inliers": [30, 0, 90], "block": 4, "row": [0, 1, 2], "place": 0}
    table = pair_table(IDS.astype(np.int64), origin=["gps", "gps+vlad", "gps"], **given)
    assert list(table) == list(TRUSTED)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == COLUMNS
    assert table["block"].tolist() == [4, 4, 4]
    assert table["origin"].tolist() == ["gps", "gps+vlad", "gps"]
    assert list(pair_table(IDS[:0], **dict.fromkeys(MATCHED[2:], 0))) == list(MATCHED)


def test_a_column_that_no_pair_has_is_refused() -> None:
    with pytest.raises(KeyError, match="config"):
        pair_table(IDS, config=2)


def test_large_columns_are_not_copied() -> None:
    inliers, origin = np.arange(3, dtype=np.int32), pd.Categorical(["gps"] * 3)
    table = pair_table(IDS, origin=origin, inliers=inliers)
    assert np.shares_memory(table["image_id2"].to_numpy(), IDS)
    assert np.shares_memory(table["inliers"].to_numpy(), inliers)
    assert np.shares_memory(table["origin"].array.codes, origin.codes)


def test_both_images_by_id_and_by_row() -> None:
    table = pair_table(IDS, inliers=0)
    for found, expected in ((image_ids(table), IDS), (image_rows(table), IDS - 1)):
        assert found.dtype == np.int32
        assert found.tolist() == expected.tolist()
    assert table["image_id1"].tolist() == [1, 2, 2]
    assert image_rows(table.iloc[:0]).shape == (0, 2)


def test_trusted_are_pairs_with_enough_inliers_and_a_geometry_of_the_scene() -> None:
    kinds = np.array([*GEOMETRY_KINDS, 2, 2])
    inliers = np.array([50] * len(GEOMETRY_KINDS) + [20, 19])
    table = pair_table(np.tile([1, 2], (len(kinds), 1)), geometry_kind=kinds, inliers=inliers)
    assert table["geometry_kind"][is_trusted(table, 20)].tolist() == [*TRUSTED_KINDS, 2]
    assert {GEOMETRY_KINDS[kind] for kind in set(GEOMETRY_KINDS) - set(TRUSTED_KINDS)} == {
        "undefined",
        "degenerate",
        GEOMETRY_KINDS[WATERMARK],
    }
