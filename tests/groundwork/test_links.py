import errno
import os
from pathlib import Path

import pytest

from groundwork.files import atomic_path
from groundwork.links import share


@pytest.mark.parametrize("linked", [True, False])
def test_what_is_written_anew_leaves_its_second_name_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    folder, second = tmp_path / "a", tmp_path / "there/b"
    (folder / "below").mkdir(parents=True)
    (folder / "below/file").write_text("old")
    (folder / ".lock").touch()
    if not linked:

        def refuse(*_: object) -> None:
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr(os, "link", refuse)
    share(folder, second)
    assert ((second / "below/file").stat().st_nlink == 2) is linked
    with atomic_path(folder / "below/file") as unfinished:
        unfinished.write_text("new")
    assert (second / "below/file").read_text() == "old"
    assert not (second / ".lock").exists()
    share(folder / "below/file", second / "below/file")
    assert (second / "below/file").read_text() == "new"
