import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks.measuring.localcluster import LocalCluster


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep er").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for name in ("a.jpg", "deep er/b c.png", "c.jpg"):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(12, axis=0).repeat(12, axis=1)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_nothing_said_is_help(command):
    code, out, err = command()
    assert (code, err) == (0, [])
    assert out.startswith("Usage: cnnimretrieval [OPTIONS] COMMAND [ARGS]...")


@pytest.mark.parametrize("name", ["run", "reconstruct"])
@pytest.mark.parametrize("inside", [".", "work/sfm"])
def test_nothing_is_written_among_the_photos(command, photos, name, inside):
    out = photos / inside
    code, _, err = command(name, photos, "--out", out)
    expected = f"cnnimretrieval: --out: expected a folder outside PHOTOS, got {out}; write somewhere else"
    assert (code, err) == (2, [expected])
    assert not (photos / "work").exists()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["extrakt"], "extrakt"),
        (["extract"], "MODEL"),
        (["mine", "a"], "--out"),
        (["mine", "a", "--out", "b", "--sed", "3"], "--sed"),
        (["mine", "a", "--out", "b", "--seed", "x"], "--seed"),
        (["mine", "a", "--out", "b", "--seed", "-1"], "--seed"),
    ],
)
def test_what_the_parser_refuses_is_one_line_and_2(command, words, names):
    code, out, err = command(*words)
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].startswith("cnnimretrieval: ")
    assert names in err[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["mine", "nowhere", "--out", "b"],
            "WORK/sfm: expected a folder, got nowhere, which does not exist; run reconstruct first",
        ),
        (
            ["reconstruct", "experiments", "--out", "b", "--from-colmap", "nowhere"],
            "--from-colmap: expected a folder, got nowhere, which does not exist; check the path",
        ),
        (
            ["reconstruct", ".", "--out", "../b", "--scheduler", "tcp://h:1", "--memory-gb", "2"],
            "--memory-gb: expected no limit for a cluster, got 2; "
            "give it to the workers as --memory-limit of 'dask worker'",
        ),
        (
            ["mine", "a", "--out", "b", "--protocol", "smal"],
            "--protocol: expected one that `run --protocol list` shows or a FILE.toml, got 'smal'; "
            "did you mean 'small'?",
        ),
        (
            ["mine", "a", "--out", "b", "--set", "pairs.min_overlop=0.1"],
            "--set pairs.min_overlop=0.1: unknown key 'pairs.min_overlop'; did you mean 'pairs.min_overlap'?",
        ),
        (
            ["mine", "a", "--out", "b", "--set", "pairs.min_overlap=2"],
            "pairs.min_overlap: expected a number >= 0 and < 1, got 2; "
            "change it in --set pairs.min_overlap=2",
        ),
        (
            ["extract", "resnet18", "nowhere", "--out", "b"],
            "PHOTOS: expected a folder, got nowhere, which does not exist; check the path",
        ),
        (
            ["search", "resnet18", "nowhere", "q.jpg"],
            "DIR: expected a folder, got nowhere, which does not exist; extract the photos first",
        ),
        (
            ["search", "resnet18", ".", "nowhere.jpg"],
            "QUERY: expected a file, got nowhere.jpg, which does not exist; check the path",
        ),
        (
            ["search", "resnet18", ".", "."],
            "QUERY: expected a file, got ., which is a folder; check the path",
        ),
        (
            ["search", "resnet18", ".", "q.jpg", "--box", "1,2,3"],
            "--box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '1,2,3'; correct it",
        ),
        (
            ["search", "resnet18", ".", "q.jpg", "--box", "1,2,inf,4"],
            "--box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '1,2,inf,4'; correct it",
        ),
        (
            ["search", "resnet18", ".", "q.jpg", "--box", "5,2,3,4"],
            "--box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '5,2,3,4'; correct it",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_2(command, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == (2, "", [f"cnnimretrieval: {line}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--image-size", "0"], "image_size: expected an integer > 0, got 0; change it in --image-size 0"),
        (
            ["--scales", "1,half"],
            "--scales: expected numbers separated by commas, got '1,half'; write it like 1,0.5",
        ),
        (
            ["--list", "nowhere.csv"],
            "--list: expected a file, got nowhere.csv, which does not exist; check the path",
        ),
        (
            ["--weights", "nowhere.pth"],
            "weights: expected a file, got nowhere.pth, which is none; check the path",
        ),
        (["--device", "gpu"], "--device: expected auto, cpu or one of 0 GPUs as cuda:N, got 'gpu'; use auto"),
    ],
)
def test_wrong_extraction_is_one_line_and_2(command, photos, weights, monkeypatch, options, line):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ["extract", "squeezenet1_1", photos, "--out", photos.parent / "out", "--weights", weights]
    assert command(*words, *options) == (2, "", [f"cnnimretrieval: {line}"])
    assert not (photos.parent / "out").exists()


def test_weights_of_another_architecture(command, photos, weights):
    code, out, err = command(
        "extract", "alexnet", photos, "--out", photos.parent / "out", "--weights", weights
    )
    assert (code, out) == (2, "")
    assert err == [
        f"cnnimretrieval: weights {weights}: expected the keys of alexnet, got no 'features.0.weight'; "
        "give weights of alexnet or choose the backbone they belong to"
    ] or err[0].startswith(f"cnnimretrieval: weights {weights}: expected 'features.0.weight' of shape")
    assert not (photos.parent / "out").exists()


def test_extract_then_search(command, photos, weights):
    out = photos.parent / "out"
    options = ["--weights", weights, "--workers", "1", "--device", "cpu"]
    assert command("extract", "squeezenet1_1:mac", photos, "--out", out, "--image-size", "64", *options)[
        :2
    ] == (
        0,
        "3 descriptors of length 512, 1 rejected (1 not an image): "
        f"{out / 'rejected.parquet'}\n{out / 'vectors.npy'}\n",
    )
    query = photos / "deep er" / "b c.png"
    code, table, _ = command("search", "squeezenet1_1:mac", out, query, "--top", "2", *options)
    assert code == 0
    first, best, second = table.splitlines()
    assert first == str(query)
    assert best.split(maxsplit=2) == ["1", "1.0000", "deep er/b c.png"]
    assert second.split()[0] == "2"
    code, text, _ = command("search", "squeezenet1_1:mac", out, query, "--top", "1", "--json", *options)
    found = json.loads(text)
    assert [answer["query"] for answer in found] == [str(query)]
    assert [hit["name"] for hit in found[0]["hits"]] == ["deep er/b c.png"]
    assert found[0]["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_photos_are_described_and_folders_searched_here_and_on_a_cluster(command, photos, weights, tmp_path):
    pytest.importorskip("distributed")
    options = ["--weights", weights, "--workers", "1", "--device", "cpu"]
    for name, below in (("all", photos), ("part", photos / "deep er")):
        words = ["extract", "squeezenet1_1", below, "--out", tmp_path / name, "--image-size", "64"]
        assert command(*words, *options)[0] == 0
    query = photos / "deep er" / "b c.png"
    words = ["search", "squeezenet1_1", tmp_path / "all", query, "--also", tmp_path / "part", *options]
    code, here, err = command(*words)
    assert (code, err) == (0, [])
    assert [line.split(maxsplit=2)[1:] for line in here.splitlines()[1:3]] == 2 * [["1.0000", str(query)]]
    assert len(here.splitlines()) > 3
    extracting = ["extract", "squeezenet1_1", photos, "--out", tmp_path / "again", "--image-size", "64"]
    with LocalCluster(tmp_path / "cluster", 1) as cluster:
        assert command(*words, "--scheduler", cluster.address) == (0, here, [])
        assert command(*extracting, *options, "--scheduler", cluster.address)[0] == 0
    vectors = [(tmp_path / name / "vectors.npy").read_bytes() for name in ("all", "again")]
    assert vectors[0] == vectors[1]
    assert not list((tmp_path / "all").glob(".unfinished*"))
    assert command(*words, "--rerank", "qe") == (
        1,
        "",
        [
            "cnnimretrieval: search: expected several folders to be searched by global descriptors alone, "
            "got re-ranking, the local index or a confidence; leave it out, or search one folder"
        ],
    )


def test_extract_a_list_with_boxes(command, photos, weights, tmp_path):
    table, out = tmp_path / "list.csv", tmp_path / "out"
    table.write_text('name,x1,y1,x2,y2\nc.jpg,,,,\n\n"deep er/b c.png",8,16,72,64\n', encoding="utf-8")
    options = ["--weights", weights, "--workers", "1", "--device", "cpu"]
    assert command("extract", "squeezenet1_1", photos, "--out", out, "--list", table, *options)[0] == 0
    query = photos / "deep er" / "b c.png"
    code, text, _ = command("search", "squeezenet1_1", out, query, "--box", "8,16,72,64", "--json", *options)
    assert code == 0
    assert [(hit["name"], hit.get("box")) for hit in json.loads(text)[0]["hits"]] == [
        ("deep er/b c.png", [8, 16, 72, 64]),
        ("c.jpg", None),
    ]
    np.save(out / "vectors.npy", 3 * np.load(out / "vectors.npy"))
    code, text, err = command("search", "squeezenet1_1", out, query, *options)
    assert (code, text) == (1, "")
    said = f"{out}/vectors.npy: expected the file that extract left, got it damaged, or changed since"
    assert err == [f"cnnimretrieval: {said}; extract the photos again"]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("a.jpg,1,2", "list.csv line 2: expected name or name,x1,y1,x2,y2, got 'a.jpg,1,2'; correct it"),
        (",1,2,3,4", "list.csv line 2: expected name or name,x1,y1,x2,y2, got ',1,2,3,4'; correct it"),
        ("/a.jpg", "list.csv line 2: expected a path below PHOTOS, got '/a.jpg'; leave out the folder"),
        ("x/../../a", "list.csv line 2: expected a path below PHOTOS, got 'x/../../a'; leave out the folder"),
        (
            "a.jpg,1,2,x,4",
            "list.csv line 2: expected numbers separated by commas, got '1,2,x,4'; write it like 1,0.5",
        ),
        (
            "a.jpg,1,2,1,4",
            "list.csv line 2: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '1,2,1,4'; correct it",
        ),
    ],
)
def test_wrong_list_is_one_line_and_2(command, photos, weights, tmp_path, row, line):
    (tmp_path / "list.csv").write_text(f"b.jpg\n{row}\n")
    words = ["extract", "squeezenet1_1", photos, "--out", tmp_path / "out", "--weights", weights]
    assert command(*words, "--list", tmp_path / "list.csv") == (2, "", [f"cnnimretrieval: {line}"])


def test_evaluate_judged_photos(command, photos, weights, tmp_path):
    # b is searched with and finds a, its copy, before everything else; for c geometry of chance decides.
    shutil.copy(photos / "deep er/b c.png", photos / "a.png")
    benchmark = tmp_path / "judged.json"
    benchmark.write_text(
        json.dumps([{"query": "deep er/b c.png", "positives": ["a.png"], "junk": ["c.jpg"]}])
    )
    words = ["evaluate", "squeezenet1_1", benchmark, "--data", photos, "--weights", weights, "--workers", "1"]
    code, text, _ = command(*words)
    assert code == 0
    assert [line.split() for line in text.splitlines()] == [
        ["map", "1.0000"],
        *([f"precision_at_{k}", "1.0000"] for k in (1, 5, 10)),
        *([f"recall_at_{k}", "1.0000"] for k in (1, 5, 10)),
        ["queries", "1"],
        ["photos", "4"],
        ["unreadable", "1"],
    ]
    code, text, _ = command(*words, "--json", "--image-size", "64", "--scales", "1,0.5")
    assert (code, json.loads(text)["map"], json.loads(text)["photos"]) == (0, 1.0, 4)


def test_ground_truth_of_other_photos_is_2_before_any_work(command, photos, tmp_path):
    benchmark = tmp_path / "judged.json"
    benchmark.write_text('[{"query": "a.jpg", "positives": ["z.jpg"]}]')
    words = ["evaluate", "squeezenet1_1", benchmark, "--data", photos, "--weights", "nowhere.pth"]
    line = "ground truth of 'a.jpg': expected positives among the photos, got 'z.jpg'; "
    assert command(*words) == (2, "", [f"cnnimretrieval: {line}correct the name, or take it out"])


def test_another_network_does_not_search(command, photos, weights):
    out = photos.parent / "out"
    options = ["--weights", weights, "--workers", "1", "--device", "cpu"]
    assert command("extract", "squeezenet1_1:mac", photos, "--out", out, *options)[0] == 0
    code, text, err = command("search", "squeezenet1_1:gem", out, photos / "a.jpg", *options)
    assert (code, text, len(err)) == (1, "", 1)
    assert err[0].startswith(
        "cnnimretrieval: descriptors: expected the network that made them (squeezenet1_1:mac"
    )


def test_read_only_folder(command, photos, weights):
    if os.geteuid() == 0:
        unwritable = "/proc/out"
        line = "cnnimretrieval: /proc/out: no such file or directory"
    else:
        photos.chmod(0o500)
        unwritable = str(photos / "out")
        line = (
            f"cnnimretrieval: {unwritable}: expected leave to read and write, got 'permission denied'; "
            "change it or take another folder"
        )
    words = ["extract", "squeezenet1_1", photos, "--out", unwritable, "--weights", weights]
    assert command(*words) == (1, "", [line])


def test_traceback_only_when_asked_for(command, photos, weights):
    words = ["extract", "squeezenet1_1", photos, "--weights", weights, "--out", photos / "a.jpg"]
    line = (
        f"cnnimretrieval: {photos / 'a.jpg'}: expected a folder to write to, got a file; choose another --out"
    )
    assert command(*words) == (2, "", [line])
    code, _, err = command(*words, "--debug")
    assert code == 2
    assert err[0] == "Traceback (most recent call last):"
    assert err[-1] == line


IMPORTS = """
import sys
from experiments import cli
code = cli.main(sys.argv[1:])
print([name for name in ("torch", "torchvision", "matplotlib") if name in sys.modules], code)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["mine", "nowhere", "--out", "x"], 2),
        (["reconstruct", "nowhere", "--out", "x"], 2),
    ],
)
def test_help_and_geometry_do_not_wait_for_torch(words, code):
    command = [sys.executable, "-c", IMPORTS, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"[] {code}"
