"""Values that no option can mean: one line that names the option and the value, 2, and nothing is written."""

import os
import sys
from pathlib import Path

import pytest

from experiments import cli

RECONSTRUCT = ("reconstruct", "photos", "--out", "out")
EXTRACT = ("extract", "squeezenet1_1", "photos", "--out", "out")
SEARCH = ("search", "squeezenet1_1", "photos", "q.jpg")
TRAIN = ("train", "photos", "--out", "out")
DEMO = ("demo", "--out", "out")
EVALUATE = ("evaluate", "squeezenet1_1", "roxford5k", "--data", "photos")

CASES = [
    *(
        (c, "--workers", v)
        for c in (RECONSTRUCT, EXTRACT, DEMO)
        for v in ("99999999999", "-1", "0", "inf", "")
    ),
    *((c, "--memory-gb", v) for c in (RECONSTRUCT, DEMO) for v in ("inf", "nan", "-1", "0", "1e300", "")),
    *((RECONSTRUCT, "--scheduler", v) for v in ("nonsense", "", "tcp://h", "tcp://h:999999", "http://h:1/x")),
    *(
        (c, "--device", v)
        for c in (EXTRACT, SEARCH, EVALUATE, TRAIN, DEMO)
        for v in ("cpu:5", "cuda:99", "foo", "meta", "mps", "")
    ),
    *(
        (c, "--scales", v)
        for c in (EXTRACT, EVALUATE)
        for v in ("1e-300", "nan", "1,inf", "0", "1e30", "1,,2")
    ),
    *((EXTRACT, "--image-size", v) for v in ("0", "-1", "99999999999", "nan")),
    *((SEARCH, "--top", v) for v in ("0", "-1", "1.5")),
    *((SEARCH, "--box", v) for v in ("nan,0,1,1", "2,0,1,1", "0,0,0,0", "1,2,3", "")),
    *(
        (SEARCH, "--rerank", v)
        for v in ("nosuch", "qe:alpha=nan", "qe:neighbours=99999999999", "qe:alpha=1e400")
    ),
    *((c, "--seed", v) for c in (RECONSTRUCT, TRAIN, DEMO) for v in ("2147483648", "-1", "1.5", "nan")),
]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("q.jpg").touch()

    def run(*words):
        code = cli.main(words)
        said = capsys.readouterr()
        assert not os.path.exists("out")
        return code, said.out, said.err.splitlines()

    return run


@pytest.mark.parametrize(("command", "option", "value"), CASES)
def test_is_refused_in_one_line(run, command, option, value):
    code, out, lines = run(*command, option, value)
    assert (code, out, len(lines)) == (2, "", 1)
    name = option.removeprefix("--").replace("-", "_")
    assert option in lines[0] or name in lines[0] or value.partition(":")[0] in lines[0]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "sfm.seed=2147483648",
            "sfm.seed: expected an integer up to 2,147,483,647 either way, got 2147483648; "
            "choose a smaller one",
        ),
        (
            "sfm.matching.max_error_px=1e-40",
            "sfm.matching.max_error_px: expected 0 or a number between 1e-37 and 1e+37 either way, "
            "got 1e-40; choose one nearer to 1",
        ),
        (
            'sfm.graph.filters=["nosuch"]',
            "sfm.graph.filters: expected stationary, doppelgangers or path/to/file.py:function, got "
            "'nosuch'; check the name, or install the package that brings it",
        ),
        (
            'sfm.graph.filters=["no.py:f"]',
            "sfm.graph.filters: expected a file of Python code, got 'no.py'; check the path",
        ),
        (
            'sfm.graph.filters=["broken.py:f"]',
            "sfm.graph.filters: expected Python code that runs, got broken.py, which raises NameError: name "
            "'undefined' is not defined; mend it",
        ),
        (
            'sfm.graph.filters=["broken.py"]',
            "sfm.graph.filters: expected stationary, doppelgangers or path/to/file.py:function, got "
            "'broken.py'; check the name, or install the package that brings it",
        ),
        (
            "sfm.graph.overlap=400",
            "sfm.graph.overlap: expected at most half of max_component (500), got 400; lower it",
        ),
    ],
)
def test_a_setting_is_refused_before_any_work(run, setting, line):
    Path("broken.py").write_text("undefined")
    code, _, lines = run(*RECONSTRUCT, "--set", setting)
    assert (code, lines) == (2, [f"cnnimretrieval: {line}; see --set {setting}"])


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "train.loop.loss=foo",
            "train.loop.loss: expected one of 'contrastive', 'triplet', 'multi_similarity', 'supcon', "
            "'smooth_ap', 'quantised_ap', 'arcface', 'cosface', 'sphereface', 'subcentre_arcface', got 'foo'",
        ),
        (
            "train.keep=foo",
            "train.keep: expected one of 'off_the_shelf', 'off_the_shelf_pca', 'off_the_shelf_whitened', "
            "'fine_tuned', 'fine_tuned_loss_whitening', 'fine_tuned_whitened' or 'best', got 'foo'",
        ),
        (
            "train.network.projection=x",
            "train.network.projection: expected an integer > 0 or nothing, got 'x'",
        ),
        (
            'train.whitening.scales=["a","b"]',
            "train.whitening.scales: expected a list, each a number, got 'a'",
        ),
    ],
)
def test_a_wrong_choice_is_one_line(run, setting, line):
    code, _, lines = run(*TRAIN, "--set", setting)
    assert (code, lines) == (2, [f"cnnimretrieval: {line}; change it in --set {setting}"])


def test_a_cluster_without_its_packages_is_told_before_any_work(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, lines = run(*RECONSTRUCT, "--scheduler", "tcp://127.0.0.1:9")
    assert (code, lines) == (
        2,
        [
            "cnnimretrieval: --scheduler: expected the package distributed, got none; "
            "pip install 'cnnimretrieval[cluster]'"
        ],
    )
