from pathlib import Path

import pytest

from groundwork.names import as_text, counted, name_below, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 東.jpg", "plain ä 東.jpg"),
        ("a\nb\tc\r.jpg", "a\\nb\\tc\\r.jpg"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("photo\u202egpj.exe", "photo\\u202egpj.exe"),
        ("\u2028\u2066\U000e0001", "\\u2028\\u2066\\U000e0001"),
        ("caf\udce9", "caf\\xe9"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_printed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_bytes_that_are_no_text_are_spelt_out() -> None:
    assert as_text("a\udcff\nb") == "a\\xff\nb"


def test_a_name_is_the_path_from_the_folder_on() -> None:
    assert name_below(Path("/photos/a/b c\udcff.jpg"), Path("/photos")) == "a/b c\\xff.jpg"


def test_reasons_are_counted_the_most_frequent_first() -> None:
    assert counted(["b", "a", "a"]) == "2 a, 1 b"
    assert counted("abcdeabca") == "3 a, 2 b, 2 c, 2 for other reasons"
    assert counted([]) == ""
