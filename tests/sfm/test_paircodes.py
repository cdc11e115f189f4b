import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sfm.paircodes import decode, encode, first_of_equal, num_rows, sort_unique, with_new

PAIRS = arrays(np.int32, st.tuples(st.integers(0, 20), st.just(2)), elements=st.integers(0, 9))
CODES = arrays(np.int64, st.integers(0, 12), elements=st.integers(0, 15))


@given(PAIRS)
def test_numbers_of_pairs_are_in_their_order_and_lead_back_to_them(pairs):
    rows = num_rows(pairs)
    assert rows == max([1, *(pairs.ravel() + 1)])
    codes = encode(pairs[:, 0], pairs[:, 1], rows)
    np.testing.assert_array_equal(decode(codes, rows), pairs)
    unique = sorted({(one, two) for one, two in pairs.tolist()})
    assert list(map(tuple, decode(sort_unique(codes), rows).tolist())) == unique


@given(CODES, CODES)
def test_new_numbers_join_those_that_are_known(known, codes):
    known, before = np.unique(known), codes.copy()
    found = with_new(known, codes)
    np.testing.assert_array_equal(found, np.union1d(known, codes))
    assert (found is known) == (len(known) > 0 and set(codes) <= set(known))
    np.testing.assert_array_equal(codes, before)


def test_equal_numbers_are_told_from_their_first():
    assert first_of_equal(np.array([2, 2, 3, 5, 5, 5])).tolist() == [True, False, True, True, False, False]
    assert first_of_equal(np.empty(0, np.int64)).tolist() == []


def test_rows_of_several_arrays_are_counted_together():
    assert num_rows(np.array([3, 1]), np.empty(0, int), np.array([[0, 7]])) == 8
    assert num_rows(np.empty((0, 2), int)) == num_rows() == 1
