from dataclasses import dataclass

import numpy as np
import pytest

from groundwork.arrays import freeze_arrays, slices, starts_of


@dataclass(frozen=True)
class Sample:
    rows: object
    values: object
    kinds: object

    def __post_init__(self) -> None:
        layout = {
            "rows": (np.int64, ("n", 2)),
            "values": (np.float64, ("m", 3)),
            "kinds": (np.str_, ("m",)),
        }
        freeze_arrays(self, "sample", layout, n=2)


ROWS, VALUES, KINDS = np.array([[1, 2], [3, 4]]), np.zeros((1, 3)), np.array(["m3"])


def test_types_are_converted_where_nothing_is_lost():
    sample = Sample(ROWS.astype(np.uint32), VALUES.astype(np.float32), ["m3"])
    assert (sample.rows.dtype, sample.values.dtype) == (np.int64, np.float64)
    assert Sample(ROWS, VALUES.astype(int), KINDS).values.dtype == np.float64
    assert sample.kinds.tolist() == ["m3"]


def test_the_record_is_frozen_and_the_given_array_is_not():
    given = VALUES.copy()
    sample = Sample(ROWS, given, KINDS)
    with pytest.raises(ValueError, match="read-only"):
        sample.values[0, 0] = 9
    given[0, 0] = 9


def test_rows_that_became_floats_are_refused():
    with pytest.raises(TypeError) as error:
        Sample(ROWS.astype(float), VALUES, KINDS)
    assert str(error.value) == "sample: expected int64 in 'rows', got float64; convert it first"


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        (ROWS[:1], VALUES, "sample: expected 'rows' of shape (2, 2), got (1, 2); pass aligned arrays"),
        (ROWS[0], VALUES, "sample: expected 'rows' of shape (2, 2), got (2,); pass aligned arrays"),
        (ROWS, np.zeros((2, 3)), "sample: expected 'kinds' of shape (2,), got (1,); pass aligned arrays"),
        (ROWS, 7.0, "sample: expected 'values' of shape (0, 3), got (); pass aligned arrays"),
        (
            ROWS,
            np.full((1, 3), np.nan),
            "sample: expected no NaN in 'values', got one; leave out what could not be computed",
        ),
    ],
)
def test_wrong_shapes_and_nan_are_named(rows, values, message):
    with pytest.raises(ValueError, match="sample") as error:
        Sample(rows, values, KINDS)
    assert str(error.value) == message


def test_parts_end_to_end_start_where_those_before_them_end() -> None:
    assert starts_of(["abc", [], (1, 2)]).tolist() == [0, 3, 3, 5]
    assert starts_of([]).tolist() == [0]
    assert starts_of([]).dtype == starts_of(["a"]).dtype == np.int64


def test_pieces_cover_all_once_and_the_last_is_shorter() -> None:
    assert list(slices(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert (list(slices(6, 3)), list(slices(0, 3))) == ([slice(0, 3), slice(3, 6)], [])
