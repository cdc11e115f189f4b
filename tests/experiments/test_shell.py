"""What the command line does for a shell: silence when asked for, completion."""

import logging
import os
import subprocess
import sys

import pytest

from experiments import cli


@pytest.mark.parametrize(("words", "level"), [([], logging.INFO), (["--quiet"], logging.WARNING)])
def test_quiet_leaves_out_what_stages_tell(words, level, tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "none"), *words]) == 2
    # Errors are told all the same.
    assert "WORK: expected a folder" in capsys.readouterr().err
    for package in ("groundwork", "sfm", "pairs", "cnnimretrieval", "experiments"):
        assert logging.getLogger(package).level == level


def test_the_shell_completes_commands():
    asked = {
        "_CNNIMRETRIEVAL_COMPLETE": "complete_bash",
        "COMP_WORDS": "cnnimretrieval comp",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["compare"]
