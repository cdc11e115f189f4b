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


def test_what_a_child_needs_to_take_a_call_is_loaded_before_it_starts() -> None:
    code = "{'groundwork.child', 'pyarrow', 'pandas'} & __import__('sys').modules.keys()"
    script = (
        "from multiprocessing import forkserver\n"
        "from groundwork.child import Child\n"
        f"print(Child(eval, ({code!r},), {{}}).result())\n"
        "print(forkserver._forkserver._preload_modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    # Loading pandas or pyarrow takes longer than most calls.
    assert (done.stdout, done.stderr) == ("{'groundwork.child'}\n['groundwork.child']\n", "")
