import subprocess
import sys

_SCRIPT = """
import sys
from groundwork.child import Child, preload, preloaded
preload("colorsys", "wave", "colorsys")
assert preloaded() == ("colorsys", "wave")
code = "sorted({'colorsys', 'wave', 'chunk'} & __import__('sys').modules.keys())"
names = Child(eval, (code,), {}).result()
print(names)
"""


def test_what_is_preloaded_is_there_when_a_child_starts() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "['colorsys', 'wave']\n"
