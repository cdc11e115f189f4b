"""`cnnimretrieval evaluate` on small benchmarks in the published layouts; the network has random weights."""

import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from groundwork.executors import LocalExecutor

SCENES, VIEWS = 4, 3


@pytest.fixture(scope="module")
def machine(weights) -> list[str]:
    """Weights, workers and device."""
    return ["--weights", str(weights), "--workers", "1", "--device", "cpu"]


def draw(path, scene, view):
    """A photo: the pattern of its scene, seen with the noise of its view."""
    pattern = np.random.default_rng(scene).integers(0, 256, (5, 7, 3))
    noise = np.random.default_rng(1000 * scene + view).integers(-45, 45, pattern.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.clip(pattern + noise, 0, 255).astype(np.uint8)
    Image.fromarray(levels).resize((84, 60), Image.Resampling.BICUBIC).save(path, quality=95)


def names(kind=""):
    return [f"{kind}{scene}_{view}" for scene in range(SCENES) for view in range(VIEWS)]


def in_pickle(data, name, truths, queries):
    folder = data / "test" / name
    for number, photo in enumerate(names("photo_")):
        draw(folder / "jpg" / f"{photo}.jpg", number // VIEWS, number % VIEWS)
    for number, query in enumerate(queries):
        if query not in names("photo_"):
            draw(folder / "jpg" / f"{query}.jpg", number, 77)
    truth = {"imlist": names("photo_"), "qimlist": queries, "gnd": truths}
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth, protocol=2))


@pytest.fixture
def roxford(tmp_path):
    """Query s shows scene s: its first view is easy, the second hard, the third junk; one has no easy one."""
    truths = [
        {
            "bbx": [8.0, 4.0, 76.0, 52.0],
            "easy": [] if scene == 2 else [VIEWS * scene],
            "hard": [VIEWS * scene + 1],
            "junk": [VIEWS * scene + 2],
        }
        for scene in range(SCENES)
    ]
    in_pickle(tmp_path, "roxford5k", truths, [f"query_{scene}" for scene in range(SCENES)])
    return tmp_path


def evaluated(command, *words):
    code, text, err = command("evaluate", "squeezenet1_1", *words, "--json")
    assert (code, err) == (0, [])
    return json.loads(text)


def test_roxford(command, roxford, machine):
    found = evaluated(command, "roxford5k", "--data", roxford, *machine)
    assert set(found["protocols"]) == {"easy", "medium", "hard"}
    assert [found["protocols"][kind]["queries"] for kind in ("easy", "medium", "hard")] == [3, 4, 4]
    assert (found["photos"], found["published_photos"], found["uncropped"]) == (12, 4993, False)
    third = found["per_query"][2]
    assert (third["query"], third["box"]) == ("query_2.jpg", [8.0, 4.0, 76.0, 52.0])
    assert third["protocols"]["easy"]["average_precision"] is None
    for kind in ("easy", "medium", "hard"):
        each = [query["protocols"][kind]["average_precision"] for query in found["per_query"]]
        scored = [value for value in each if value is not None]
        assert np.mean(scored) == pytest.approx(found["protocols"][kind]["map"], abs=1e-12)


def test_the_same_scores_by_hand(command, roxford, machine, tmp_path):
    """Descriptors of `extract` with the boxes as a list, full score matrix, sorted."""
    jpg, table = roxford / "test/roxford5k/jpg", tmp_path / "queries.csv"
    table.write_text("".join(f"query_{scene}.jpg,8,4,76,52\n" for scene in range(SCENES)))
    for out, listed in (("all", ()), ("cut", ("--list", table))):
        words = ["extract", "squeezenet1_1", jpg, "--out", tmp_path / out, *listed, *machine]
        assert command(*words)[0] == 0
    queries, vectors = np.load(tmp_path / "cut/vectors.npy"), np.load(tmp_path / "all/vectors.npy")
    rankings = np.argsort(-(queries @ vectors[: SCENES * VIEWS].T), axis=1)
    medium = [
        Relevance(
            positives=np.array([3 * scene + 1] if scene == 2 else [3 * scene, 3 * scene + 1]),
            junk=np.array([3 * scene + 2]),
        )
        for scene in range(SCENES)
    ]
    expected = score_rankings(rankings, medium)
    found = evaluated(command, "roxford5k", "--data", roxford, *machine)
    assert found["protocols"]["medium"]["map"] == pytest.approx(expected.mean_average_precision, abs=1e-12)
    # The same from what was extracted, without photos; the query photos in it are not searched.
    ready = ["--database", tmp_path / "all", "--queries", tmp_path / "cut"]
    for photo in jpg.glob("photo_*.jpg"):
        photo.unlink()
    cropped = evaluated(command, "roxford5k", "--data", roxford, *ready[:2], *machine)
    assert cropped["per_query"] == found["per_query"]
    for photo in jpg.iterdir():
        photo.unlink()
    again = evaluated(command, "roxford5k", "--data", roxford, *ready, *machine)
    assert again["protocols"] == found["protocols"]
    assert again["per_query"] == found["per_query"]


def test_the_table_says_what_is_unusual(command, roxford, machine, tmp_path):
    for number in range(5):
        draw(tmp_path / "other" / f"{number}.jpg", 90 + number, 0)
    draw(tmp_path / "other" / "copy.jpg", 1, 1)
    command("extract", "squeezenet1_1", tmp_path / "other", "--out", tmp_path / "shard", *machine)
    words = ["evaluate", "squeezenet1_1", "roxford5k", "--data", roxford, *machine, "--uncropped"]
    reranked = ["--rerank", "diffusion:neighbours=3,truncation=7", "--rerank", "qe:neighbours=2"]
    code, text, _ = command(*words, "--distractors", tmp_path / "shard", *reranked)
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split() == ["easy", "medium", "hard"]
    assert [line.split()[0] for line in lines[1:12]] == [
        "map",
        *(f"precision_at_{k}" for k in (1, 5, 10)),
        *(f"recall_at_{k}" for k in (1, 5, 10)),
        "queries",
        "photos",
        "unreadable",
        "distractors",
    ]
    assert lines[11].split() == ["distractors", "6"]
    assert lines[12:14] == [
        "uncropped: queries with boxes were searched with as whole photos",
        "re-ranked by qe: neighbours 2, alpha 3.0",
    ]
    assert lines[14].startswith(
        "re-ranked by diffusion: neighbours 3, query_neighbours 10, gamma 3.0, alpha "
    )
    assert re.fullmatch(
        r"truncated: rankings end after 7 of 18 photos; \d+ positives beyond count as never found", lines[15]
    )
    assert lines[16:] == [
        "incomplete: 12 photos where 4,993 were published; do not compare with published scores"
    ]


def test_distractors_that_are_searched_apart_change_nothing(command, roxford, machine, tmp_path, monkeypatch):
    for number in range(9):
        draw(tmp_path / "other" / f"{number % 2}" / f"{number}.jpg", number % 5, number)
    words, shards = ["roxford5k", "--data", roxford, *machine], []
    for half in "01":
        shards += ["--distractors", tmp_path / half]
        photos = tmp_path / "other" / half
        command("extract", "squeezenet1_1", photos, "--out", tmp_path / half, *machine)
    expected = evaluated(command, *words, *shards)
    assert expected["distractors"] == 9
    assert expected["protocols"] != evaluated(command, *words)["protocols"]
    # In place of a cluster.
    opened = []

    def local(self, photos, out, modules=()):
        opened.append((photos, out))
        return LocalExecutor(1)

    monkeypatch.setattr("experiments.engine.Engine.open", local)
    monkeypatch.setattr("cnnimretrieval.evaluation.evaluate.read_ready", None)
    apart = [*shards, "--scheduler", "tcp://localhost:8786"]
    assert evaluated(command, *words, *apart) == expected
    assert opened == [(tmp_path / "0", tmp_path / "0")]
    assert command("evaluate", "squeezenet1_1", *words, *apart, "--rerank", "qe") == (
        1,
        "",
        [
            "cnnimretrieval: evaluation: expected distractors that are searched apart to be ranked by inner "
            "products of one descriptor a photo, got re-ranking; leave it out, or search them here"
        ],
    )


def test_oxford_counts_the_query_itself(command, tmp_path, machine):
    truths = [
        {"bbx": [0, 0, 84, 60], "ok": [0, 1], "junk": []},
        {"bbx": [0, 0, 84, 60], "ok": [9], "junk": [10]},
    ]
    in_pickle(tmp_path, "oxford5k", truths, ["photo_0_0", "photo_3_0"])
    found = evaluated(command, "oxford5k", "--data", tmp_path, *machine)
    assert (found["precision_at_1"], found["queries"]) == (1.0, 2)
    assert found["per_query"][1]["average_precision"] == 1.0
    assert "protocols" not in found


@pytest.mark.parametrize("jpg", ["mine/jpg", "test/mine/jpg", "jpg", "."])
def test_a_test_set_of_ones_own(command, tmp_path, machine, jpg):
    """What the toolbox takes for a test set, as numpy writes it: the same scores as of the JSON file."""
    data = tmp_path / "data"
    for number, photo in enumerate(names("photo_")):
        draw(data / jpg / f"{photo}.jpg", number // VIEWS, number % VIEWS)
    truths = [
        {
            "bbx": np.array([8, 4, 76, 52], np.float32) if scene else None,
            "ok": np.array([VIEWS * scene + 1, VIEWS * scene + 2], np.uint16),
            "junk": [np.int64(VIEWS * scene)] if scene % 2 else np.array([VIEWS * scene]),
        }
        for scene in range(SCENES)
    ]
    content = {
        "imlist": np.array(names("photo_")),
        "qimlist": [f"photo_{scene}_0" for scene in range(SCENES)],
        "gnd": truths,
    }
    path = tmp_path / "gnd_mine.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    found = evaluated(command, path, "--data", data, *machine)
    assert (found["benchmark"], found["photos"], found["queries"]) == ("mine", 12, 4)
    same = [
        {
            "query": f"photo_{scene}_0.jpg",
            "box": [8, 4, 76, 52] if scene else None,
            "positives": [f"photo_{scene}_{view}.jpg" for view in (1, 2)],
        }
        for scene in range(SCENES)
    ]
    (tmp_path / "mine.json").write_text(json.dumps(same))
    judged = evaluated(command, tmp_path / "mine.json", "--data", data / jpg, *machine)
    assert found["per_query"] == judged["per_query"]
    assert "box" not in found["per_query"][0]
    assert found["per_query"][1]["box"] == [8.0, 4.0, 76.0, 52.0]
    assert found["ground_truth"] == {}


def test_a_test_set_with_something_wrong_says_so(command, tmp_path, machine):
    for number, photo in enumerate(names("photo_")):
        draw(tmp_path / "jpg" / f"{photo}.jpg", number // VIEWS, number % VIEWS)
    content = {
        "imlist": [*names("photo_"), "photo_0_1"],
        "qimlist": ["photo_0_0", "photo_1_0"],
        "gnd": [{"ok": [1, 2, 12], "junk": [0, 2]}, {"ok": [4, 5]}],
    }
    path = tmp_path / "gnd_mine.pkl"
    path.write_bytes(pickle.dumps(content))
    words = ["evaluate", "squeezenet1_1", path, "--data", tmp_path, *machine]
    code, text, err = command(*words)
    remark = (
        "1 photos listed before; 2 judgements given before; "
        "1 queries among the photos, not judged: wrong answers, as in the toolbox"
    )
    assert (code, err) == (0, [f"ground truth {path}: {remark}"])
    assert text.splitlines()[-1] == f"ground truth: {remark}"
    found = json.loads(command(*words, "--json")[1])
    assert (found["photos"], sum(found["ground_truth"].values())) == (12, 4)
    assert found["per_query"][0]["average_precision"] > 0.9
    # Its own photo, found first, is a wrong answer.
    assert found["per_query"][1]["precision_at_1"] == 0.0


def test_holidays(command, tmp_path, machine):
    for scene in range(SCENES):
        for view in range(VIEWS):
            draw(tmp_path / "test/holidays/jpg" / f"10{scene:02}{view:02}.jpg", scene, view)
    found = evaluated(command, "holidays", "--data", tmp_path, *machine)
    assert (found["queries"], found["photos"]) == (SCENES, SCENES * VIEWS)
    assert 0.0 < found["map"] <= 1.0


def test_landmarks(command, tmp_path, machine):
    folder = tmp_path / "test/gldv2"
    ids = [f"a{scene}{view}f" for scene in range(SCENES) for view in range(VIEWS)]
    for number, photo in enumerate(ids):
        draw(folder / "index" / "/".join(photo[:3]) / f"{photo}.jpg", number // VIEWS, number % VIEWS)
    lines = ["id,images,Usage"]
    for scene, usage in enumerate(("Public", "Private", "Ignored", "Private")):
        query = f"{scene}bcd"
        if usage != "Ignored":
            draw(folder / "test" / "/".join(query[:3]) / f"{query}.jpg", scene, 50)
        lines.append(f"{query},{' '.join(ids[VIEWS * scene : VIEWS * scene + VIEWS])},{usage}")
    (folder / "retrieval_solution_v2.1.csv").write_text("\n".join(lines))
    (folder / "index.csv").write_text("\n".join(["id", *ids]))
    found = evaluated(command, "gldv2", "--data", tmp_path, *machine)
    assert [found["protocols"][part]["queries"] for part in ("public", "private")] == [1, 2]
    assert found["depth"] == 100


def test_reranking_is_recorded_by_search(command, roxford, machine, tmp_path):
    jpg = roxford / "test/roxford5k/jpg"
    assert command("extract", "squeezenet1_1", jpg, "--out", tmp_path / "all", *machine)[0] == 0
    words = [
        "search",
        "squeezenet1_1",
        tmp_path / "all",
        jpg / "photo_1_0.jpg",
        "--top",
        "4",
        "--json",
        *machine,
    ]
    plain = json.loads(command(*words)[1])
    steps = ["--rerank", "dba:neighbours=2", "--rerank", "qe:neighbours=3,alpha=0"]
    (moved,) = json.loads(command(*words, *steps)[1])
    assert "rerank" not in plain[0]
    assert moved["rerank"] == {"dba": {"neighbours": 2, "alpha": 3.0}, "qe": {"neighbours": 3, "alpha": 0.0}}
    assert len(moved["hits"]) == 4
    assert moved["hits"] != plain[0]["hits"]
    (diffused,) = json.loads(command(*words, "--rerank", "diffusion:neighbours=3")[1])
    assert diffused["rerank"]["diffusion"]["neighbours"] == 3
    assert {hit["name"].rpartition("_")[0] for hit in diffused["hits"][:2]} == {"photo_1"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["roxford6k"],
            "BENCHMARK: expected oxford5k, paris6k, roxford5k, rparis6k, holidays, holidays-upright, gldv2, "
            "a JSON file or a toolbox's .pkl, got 'roxford6k'; did you mean 'roxford5k'?",
        ),
        (
            ["paris6k"],
            "ground truth: expected a file, got {data}/test/paris6k/gnd_paris6k.pkl, which is none; "
            "download paris6k first",
        ),
        (
            ["roxford5k", "--rerank", "aqe"],
            "--rerank: expected dba, qe, diffusion, spatial, got 'aqe'; did you mean 'qe'?",
        ),
        (
            ["roxford5k", "--rerank", "qe", "--rerank", "qe:alpha=1"],
            "--rerank: expected qe once, got it twice; leave one out",
        ),
        (
            ["roxford5k", "--rerank", "qe:alpha"],
            "--rerank qe: expected KEY=VALUE, got 'alpha'; write it like qe:neighbours=20",
        ),
        (
            ["roxford5k", "--rerank", "qe:alfa=1"],
            "--rerank qe:alfa=1: unknown key 'alfa'; did you mean 'alpha'?",
        ),
        (
            ["roxford5k", "--rerank", "diffusion:alpha=1"],
            "alpha: expected a number >= 0 and < 1, got 1; change it in --rerank diffusion:alpha=1",
        ),
        (
            ["roxford5k", "--rerank", "dba:neighbours=few"],
            "neighbours: expected an integer > 0, got 'few'; change it in --rerank dba:neighbours=few",
        ),
        (
            ["roxford5k", "--distractors", "nowhere"],
            "descriptors: expected a folder, got nowhere, which does not exist; extract the photos first",
        ),
        (
            ["roxford5k", "--scheduler", "tcp://localhost:1"],
            "--scheduler: expected --distractors, which it searches, got none; leave it out",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_2(command, roxford, words, line):
    found = command("evaluate", "squeezenet1_1", *words, "--data", roxford, "--weights", "nowhere.pth")
    assert found == (2, "", [f"cnnimretrieval: {line.format(data=roxford)}"])


def test_a_query_without_photo(command, roxford, machine):
    (roxford / "test/roxford5k/jpg/query_1.jpg").unlink()
    code, _, err = command("evaluate", "squeezenet1_1", "roxford5k", "--data", roxford, *machine)
    folder = roxford / "test/roxford5k/jpg"
    assert (code, err) == (
        1,
        [
            f"cnnimretrieval: roxford5k: expected 4 photos below {folder}, got 3, without 'query_1.jpg'; "
            "download what is missing"
        ],
    )


def test_a_broken_query_stops_and_a_broken_photo_is_never_found(command, roxford, machine):
    jpg = roxford / "test/roxford5k/jpg"
    (jpg / "photo_1_0.jpg").write_bytes(b"no photo")
    found = evaluated(command, "roxford5k", "--data", roxford, *machine)
    assert (found["photos"], found["unreadable"]) == (11, 1)
    assert list(found["unreadable_photos"]) == ["photo_1_0.jpg"]
    # Its only easy positive is gone; the query still counts.
    assert found["per_query"][1]["protocols"]["easy"]["average_precision"] == 0.0
    assert found["protocols"]["easy"]["queries"] == 3
    (jpg / "query_1.jpg").write_bytes(b"no photo")
    code, _, (line,) = command("evaluate", "squeezenet1_1", "roxford5k", "--data", roxford, *machine)
    assert code == 1
    assert line == (
        f"cnnimretrieval: query {jpg / 'query_1.jpg'}: expected a photo that can be described, "
        "got 'not an image'; mend the photo or its box"
    )


def test_a_box_outside_of_its_photo(command, tmp_path, machine):
    truths = [{"bbx": [90, 0, 120, 60], "ok": [1], "junk": [0]}, {"bbx": None, "ok": [9], "junk": []}]
    in_pickle(tmp_path, "paris6k", truths, ["photo_0_0", "photo_3_0"])
    code, _, (line,) = command("evaluate", "squeezenet1_1", "paris6k", "--data", tmp_path, *machine)
    photo = tmp_path / "test/paris6k/jpg/photo_0_0.jpg"
    assert (code, line) == (
        1,
        f"cnnimretrieval: query {photo}: expected a photo that can be described, "
        "got 'box (90.0, 0.0, 120.0, 60.0) outside the photo'; mend the photo or its box",
    )
    assert evaluated(command, "paris6k", "--data", tmp_path, *machine, "--uncropped")["uncropped"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda vectors: 3 * vectors,
            "descriptors {}/vectors.npy: expected finite vectors of length 1, got 3 for '0.jpg'; "
            "extract the photos again",
        ),
        (
            lambda vectors: vectors[:, :100] / np.linalg.norm(vectors[:, :100], axis=1, keepdims=True),
            "descriptors {}: expected length 512, got 100; extract again",
        ),
        (
            lambda vectors: np.where(np.arange(len(vectors))[:, None] == 1, np.nan, vectors),
            "descriptors {}/vectors.npy: expected finite vectors of length 1, got nan for '1.jpg'; "
            "extract the photos again",
        ),
    ],
)
def test_ready_descriptors_of_another_kind(command, roxford, machine, tmp_path, change, line):
    for number in range(2):
        draw(tmp_path / "other" / f"{number}.jpg", 90 + number, 0)
    shard = tmp_path / "shard"
    command("extract", "squeezenet1_1", tmp_path / "other", "--out", shard, *machine)
    np.save(shard / "vectors.npy", change(np.load(shard / "vectors.npy")).astype(np.float32))
    (shard / "done" / "extract.json").unlink()
    words = ["evaluate", "squeezenet1_1", "roxford5k", "--data", roxford, "--distractors", shard, *machine]
    assert command(*words) == (1, "", [f"cnnimretrieval: {line.format(shard)}"])


def test_ready_descriptors_of_another_extraction(command, roxford, machine, tmp_path):
    draw(tmp_path / "other" / "0.jpg", 90, 0)
    shard = tmp_path / "shard"
    command("extract", "squeezenet1_1", tmp_path / "other", "--out", shard, "--image-size", "64", *machine)
    words = ["evaluate", "squeezenet1_1", "roxford5k", "--data", roxford, "--distractors", shard, *machine]
    assert command(*words)[0] == 0
    code, _, (line,) = command(*words, "--image-size", "70")
    assert code == 1
    assert line.startswith(f"cnnimretrieval: descriptors {shard}: expected {{'image_size': 70, ")
    assert line.endswith("; extract all descriptors of an evaluation in one way")
    # Photos of the benchmark are not in it.
    code, _, (line,) = command(*words, "--database", shard)
    assert (code, line) == (
        1,
        f"cnnimretrieval: descriptors {shard}: expected 'photo_0_0.jpg', got none of it; "
        "extract all photos of the benchmark, with their boxes",
    )
