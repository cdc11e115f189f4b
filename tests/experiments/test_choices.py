"""The comparison of choices runs on a tiny collection, so that it does not rot; its scores prove nothing."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.benchmarks import choices
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
    words += ["--seconds", "0.1", "--tuples", "4", "--seeds", "1", "--workers", "1"]
    words += ["--only", "m3-gem-triplet", "m1", "multi_similarity"]
    assert choices.main(words) == 0
    printed = capsys.readouterr().out
    for choice in ("m3-gem-triplet", "m1", "multi_similarity"):
        assert f"\n| {choice} | 0." in printed or f"\n| {choice} | 1." in printed
    cells = sorted((tmp_path / "out" / "cells").iterdir())
    assert len(cells) == 3
    scores = read_json(cells[0])
    assert {"recipe", "seed", "map", "before", "after", "tuples", "seconds"} == set(scores)
    assert 0 < scores["map"] <= 1
    assert [place for place, _ in scores["after"]] == [place for place, _ in scores["before"]]
    assert (tmp_path / "out" / "choices.svg").stat().st_size > 1000
    assert scores["tuples"] >= 4

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
    words += ["--seconds", "0.1", "--tuples", "4", "--seeds", "2", "--workers", "1", "--recipes", str(file)]
    assert choices.main(words) == 0
    table = read_json(tmp_path / "out" / "choices.json")
    assert [row[0] for row in table["table"]] == ["recipe", "slow", "fast"]
    assert len(table["cells"]) == 4
    # Plainly: places of both seeds, each with its own difference, one of two as sure as the other.
    after = {
        name: [value for cell in table["cells"] if cell["recipe"] == name for _, value in cell["after"]]
        for name in ("slow", "fast")
    }
    mean = np.mean(np.subtract(after["fast"], after["slow"]))
    assert table["table"][2][2].startswith(f"{mean:+.4f} (")
    assert "\n| fast | " in capsys.readouterr().out


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
