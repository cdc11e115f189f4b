from pathlib import Path

import pandas as pd
import pytest

from groundwork.keys import key_of, key_of_table
from groundwork.settings import Settings


class _Config(Settings):
    size: int = 3


def test_keys_tell_values_apart_and_ignore_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of((1, 2)) == key_of([1, 2])
    distinct = [key_of(1), key_of("1"), key_of(1.5), key_of([1]), key_of(None), key_of(_Config(size=4))]
    assert len(set(distinct)) == len(distinct)
    assert key_of(_Config()) == key_of(_Config(size=3))
    with pytest.raises(TypeError, match="expected plain values or Settings, got PosixPath"):
        key_of(Path("a"))


def test_the_key_of_a_table_tells_rows_names_and_order_apart() -> None:
    table = pd.DataFrame({"name": ["b", "a", "ä"], "x": [1, 2, 3]})
    assert key_of_table(table.set_index(pd.Index([5, 6, 7]))) == key_of_table(table)
    others = [table[::-1], table[:2], table.rename(columns={"x": "y"}), table.assign(x=[1, 2, 4]), table[:0]]
    keys = {key_of_table(other) for other in [*others, table]}
    assert len(keys) == len(others) + 1
