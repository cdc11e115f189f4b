from pathlib import Path

import pytest

from groundwork.settings import Values


class _Made(Values):
    sides: tuple[int, ...]
    by: str = "us"


def test_values_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    path.write_text('{"sides": [3, 4]}')
    assert _Made.load(path) == _Made(sides=(3, 4))


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ('{"sides": [3, "x"]}', "'sides.1' = 'x': Input should be a valid integer"),
        ('{"sides": [], "more": 1}', "the unknown key 'more'"),
        ("[1]", "Input should be an object"),
        ('{"sides"', "Invalid JSON: "),
        ("[" * 100_000, "Invalid JSON: "),
    ],
)
def test_the_first_wrong_value_of_a_file_is_told(tmp_path: Path, text: str, got: str) -> None:
    path = tmp_path / "made.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected") as error:
        _Made.load(path)
    plain = str(error.value)
    assert plain.startswith(f"{path}: expected values of ours, got {got}")
    assert plain.endswith("; delete it and run again the command that wrote it")
    with pytest.raises(ValueError, match="expected") as error:
        _Made.load(path, thing="index", expected="what index wrote", remedy="run index again")
    told = str(error.value)
    assert told.startswith(f"index {path}: expected what index wrote, got {got}")
    assert told.endswith("; run index again")
    assert "\n" not in told


def test_values_of_a_record_are_told_in_the_same_way() -> None:
    assert _Made.checked({"sides": [1]}, "a", "b", "c").sides == (1,)
    with pytest.raises(ValueError, match=r"^index x: expected settings, got the unknown key 'y'; mend it$"):
        _Made.checked({"sides": [], "y": 0}, "index x", "settings", "mend it")
