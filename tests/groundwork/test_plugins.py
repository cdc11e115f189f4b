import hashlib
from importlib.metadata import version

import pytest

from groundwork.plugins import PluginKind, load_plugin, plugin_key

KIND = PluginKind(
    setting="features.method",
    group="cnnimretrieval.local_features",
    built_in={"sift": "sfm.local_features.sift:Sift"},
)


def test_the_key_of_a_file_is_that_of_its_code_which_is_not_run_for_it(tmp_path):
    path, ran = tmp_path / "mine.py", tmp_path / "ran"
    path.write_text(f"import os\nos.mkdir({str(ran)!r})\ndef found(): return 7\n")
    name = f"{path}:found"
    key = plugin_key(name, KIND)
    assert key == f"found {hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert not ran.exists()
    plugin = load_plugin(name, KIND)
    assert (plugin.call(), plugin.name, plugin.module, plugin.key) == (7, "mine.py:found", "", key)
    assert ran.exists()
    path.write_text("def found(): return 8\n")
    assert plugin_key(name, KIND) != key


def test_the_key_of_an_entry_point_names_its_code_and_release():
    release = version("cnnimretrieval")
    for name, key in (
        ("sift", "sfm.local_features.sift:Sift"),
        ("xfeat", f"cnnimretrieval.keypoints.xfeat:XFeat {release}"),
        ("aliked-lightglue", f"cnnimretrieval.keypoints.aliked_lightglue:AlikedLightGlue {release}"),
    ):
        assert plugin_key(name, KIND) == load_plugin(name, KIND).key == key


def test_a_key_of_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^features.method: expected sift, .*, got 'surf'; check the name"):
        plugin_key("surf", KIND)
    with pytest.raises(ValueError, match=r"expected a file of Python code, got '.*none.py'; check the path$"):
        plugin_key(f"{tmp_path}/none.py:found", KIND)
