import errno

import pytest
import typer

from experiments.exit_codes import UsageFault, exit_code, lines_of


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (UsageFault("first", "second"), 2, ["first", "second"]),
        (ValueError("photos a: expected 2, got 1; add one"), 1, ["photos a: expected 2, got 1; add one"]),
        (RuntimeError("two\n  lines"), 1, ["two lines"]),
        (ValueError("name\x1b[31m\x07red"), 1, [r"name\x1b[31m\x07red"]),
        (ValueError("photo a\n\u202eb: expected 2\n  lines\n"), 1, [r"photo a\n\u202eb: expected 2 lines"]),
        (typer.BadParameter("no number"), 2, ["Invalid value: no number"]),
        (KeyboardInterrupt(), 130, ["interrupted; run the same command again to continue"]),
        (
            KeyError("x"),
            1,
            ["unexpected KeyError: 'x'; run it again with --debug to see where"],
        ),
        (
            AssertionError(),
            1,
            ["unexpected AssertionError; run it again with --debug to see where"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "w/sfm/a.npy"),
            1,
            [
                "w/sfm/a.npy: expected free space on the disk, got 'no space left on device'; "
                "free some and run it again"
            ],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            [
                "the output folder: expected free space on the disk, got 'no space left on device'; "
                "free some and run it again"
            ],
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "w/.lock"),
            1,
            [
                "w/.lock: expected leave to read and write, got 'read-only file system'; "
                "change it or take another folder"
            ],
        ),
        (
            OSError(errno.ENOSPC, "output w: expected a folder with room, got 'full'; make room"),
            1,
            ["output w: expected a folder with room, got 'full'; make room"],
        ),
        *(
            (
                error,
                1,
                [
                    "the output folder: expected free space on the disk, got 'no space left on device'; "
                    "free some and run it again"
                ],
            )
            for error in (
                OSError("1000000 requested and 131056 written"),
                RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"),
                RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            )
        ),
        (OSError(errno.EIO, "Input/output error", "w/x"), 1, ["w/x: input/output error"]),
        (
            OSError("photo a.jpg: expected an image; replace it"),
            1,
            ["photo a.jpg: expected an image; replace it"],
        ),
        (FileNotFoundError("weights: expected a file; check"), 1, ["weights: expected a file; check"]),
    ],
)
def test_error_at_the_command_line(error, code, lines):
    assert exit_code(error) == code
    assert lines_of(error) == lines
