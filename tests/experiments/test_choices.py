"""The comparison of choices runs on a tiny collection, so that it does not rot; its scores prove nothing."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cnnimretrieval.training.learning.loop import run_loop
from experiments.benchmarks import choices
from experiments.benchmarks.contenders import choice_cell
from groundwork.files import read_json, write_json, write_table
from sfm.model import Model, save_model

WIDTH, HEIGHT, FOCAL = 64, 48, 60.0


def row_of_cameras(place: int) -> Model:
    """Four cameras side by side before a wall."""
    rng = np.random.default_rng(place)
    points = np.column_stack([rng.uniform(-3, 3, (500, 2)), rng.uniform(5, 6, 500)])
    names = tuple(f"{place}-{number}.png" for number in range(4))
    centres = np.column_stack([rng.uniform(-0.6, 0.6, (4, 2)), np.zeros(4)])
    seen = points[None] - centres[:, None]
    xy = FOCAL * seen[..., :2] / seen[..., 2:] + [WIDTH / 2, HEIGHT / 2]
    image, point = np.nonzero(((xy > 0) & (xy < [WIDTH, HEIGHT])).all(axis=2))
    return Model(
        names=names,
        rotations=np.tile(np.eye(3), (4, 1, 1)),
        translations=-centres,
        focal_px=np.full(4, FOCAL),
        sizes=np.full((4, 2), (WIDTH, HEIGHT)),
        points=points,
        track_image=image,
        track_point=point,
        track_xy=xy[image, point],
        place=place,
    )


@pytest.fixture
def sfm(tmp_path):
    photos, folder, rows = tmp_path / "photos", tmp_path / "sfm", []
    photos.mkdir()
    for place in range(6):
        model = row_of_cameras(place)
        save_model(model, folder / "models" / str(place) / "arrays.npz")
        pattern = np.random.default_rng(place).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        for name in model.names:
            Image.fromarray(pattern).resize((WIDTH, HEIGHT)).save(photos / name)
            rows.append((name, "registered", "", place, place, WIDTH, HEIGHT, 1))
    columns = ["name", "status", "reason", "model", "place", "width", "height", "orientation"]
    write_table(folder / "images.parquet", pd.DataFrame(rows, columns=columns))
    write_json(folder / "photos.json", {"version": 1, "photos": str(photos)})
    return folder


def test_every_cell_is_scored_once_and_the_table_has_a_row_for_each_choice(sfm, tmp_path, capsys):
    words = [str(sfm), "--out", str(tmp_path / "out"), "--weights", "random", "--image-size", "48"]
    words += ["--seconds", "1e9", "--tuples", "4", "--seeds", "1", "--workers", "1"]
    words += ["--only", "m3-gem-triplet", "m1", "multi_similarity", "--set", "train.loop.epochs=1"]
    assert choices.main(words) == 0
    printed = capsys.readouterr().out
    for choice in ("m3-gem-triplet", "m1", "multi_similarity"):
        assert f"\n| {choice} | 0." in printed or f"\n| {choice} | 1." in printed
    cells = sorted((tmp_path / "out" / "cells").iterdir())
    assert len(cells) == 3
    scores = read_json(cells[0])
    assert {"recipe", "seed", "map", "before", "after", "steps", "seconds"} == set(scores)
    assert 0 < scores["map"] <= 1
    for kind in ("crop", "retaken"):
        assert [place for place, _ in scores["after"][kind]] == [place for place, _ in scores["before"][kind]]
    assert (tmp_path / "out" / "choices.svg").stat().st_size > 1000
    assert scores["steps"] >= 1

    written = [path.stat().st_mtime_ns for path in cells]
    assert choices.main(words) == 0
    assert capsys.readouterr().out == printed
    assert [path.stat().st_mtime_ns for path in cells] == written


def test_recipes_of_a_file(sfm, tmp_path, capsys):
    file = tmp_path / "recipes.toml"
    file.write_text(
        'all = ["train.loop.pool_size=9"]\n[recipes]\nslow = []\nfast = ["train.loop.learning_rate=1e-3"]\n'
    )
    words = [str(sfm), "--out", str(tmp_path / "out"), "--weights", "random", "--image-size", "48"]
    words += ["--seconds", "1e9", "--tuples", "4", "--seeds", "2", "--workers", "1", "--recipes", str(file)]
    words += ["--set", "train.loop.epochs=1"]
    assert choices.main(words) == 0
    table = read_json(tmp_path / "out" / "choices.json")
    assert [row[0] for row in table["table"]] == ["recipe", "slow", "fast"]
    assert len(table["cells"]) == 4
    # Plainly: places of both seeds, each with its own difference, one of two as sure as the other.
    after = {
        name: [
            (crop + retaken) / 2
            for cell in table["cells"]
            if cell["recipe"] == name
            for (_, crop), (_, retaken) in zip(cell["after"]["crop"], cell["after"]["retaken"], strict=True)
        ]
        for name in ("slow", "fast")
    }
    mean = np.mean(np.subtract(after["fast"], after["slow"]))
    assert table["table"][2][2].startswith(f"{mean:+.4f} (")
    assert "\n| fast | " in capsys.readouterr().out


def test_a_cell_without_time_scores_the_untouched_network(sfm, tmp_path, capsys):
    words = [str(sfm), "--out", str(tmp_path / "out"), "--weights", "random", "--image-size", "48"]
    words += ["--seconds", "0", "--tuples", "4", "--seeds", "1", "--workers", "1", "--only", "m3-gem-triplet"]
    assert choices.main(words) == 0
    (path,) = (tmp_path / "out" / "cells").iterdir()
    scores = read_json(path)
    assert scores["steps"] == 0
    assert scores["after"] == scores["before"]


@pytest.mark.parametrize(
    "recipe",
    [
        "[]",
        '["train.loop.schedule.kind=\\"cosine\\""]',
        '["train.loop.average_decay=0.9"]',
        '["train.loop.sampling=\\"clusters\\"", "train.loop.loss=\\"supcon\\""]',
    ],
)
def test_a_cell_learns_what_train_learns_from_the_same_settings(sfm, tmp_path, monkeypatch, recipe):
    real, learned = choice_cell._learn, []

    def both(training, budget):
        twin = replace(training, network=deepcopy(training.network))
        shown = []

        def validate(network):
            shown.append(network)
            return {"map_details": float(len(shown))}

        run_loop(twin, tmp_path / "checkpoint.pt", "key", validate)
        found = real(training, budget)
        learned.append((found[0].fingerprint(), shown[-1].fingerprint()))
        assert found[1] >= training.config.epochs
        return found

    monkeypatch.setattr(choice_cell, "_learn", both)
    file = tmp_path / "recipes.toml"
    file.write_text(f"[recipes]\nonly = {recipe}\n")
    words = [str(sfm), "--out", str(tmp_path / "out"), "--weights", "random", "--image-size", "48"]
    words += ["--seconds", "1e9", "--tuples", "7", "--seeds", "1", "--workers", "1", "--recipes", str(file)]
    words += ["--set", "train.loop.epochs=2"]
    assert choices.main(words) == 0
    ((own, trained),) = learned
    assert own == trained


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("[recipes]\na = []\n", ["--only", "b"], "--only: expected some of a, got 'b'; choose one of them"),
        ("[recipes]\na = 3\n", [], "expected lists of settings, got"),
        ("[recipes\n", [], "expected a TOML file, got one that cannot be read"),
        (None, [], "No such file"),
    ],
)
def test_what_is_wrong_with_a_file_of_recipes(sfm, tmp_path, capsys, text, words, line):
    file = tmp_path / "recipes.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        choices.main([str(sfm), "--out", str(tmp_path / "out"), "--recipes", str(file), *words])
    assert ended.value.code == 2
    assert line in capsys.readouterr().err
