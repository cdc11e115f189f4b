"""What `mine` says where there is nothing to mine: the cause, whatever it is."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from groundwork.files import write_json, write_table
from pairs.mine import MineConfig, mine
from sfm.model import save_model


def reconstruction(folder, models, unregistered=0):
    rows = []
    for number, model in enumerate(models):
        save_model(model, folder / "models" / str(number) / "arrays.npz")
        rows += [(name, "registered", "", number, model.place, 640, 480, 1) for name in model.names]
    reasons = ["matches no other photo", "place has too few photos"]
    for number in range(unregistered):
        rows.append((f"u{number}", "unregistered", reasons[number % 3 == 0], -1, -1, 640, 480, 1))
    columns = ["name", "status", "reason", "model", "place", "width", "height", "orientation"]
    write_table(folder / "images.parquet", pd.DataFrame(rows, columns=columns))
    write_json(folder / "photos.json", {"version": 1, "photos": "/somewhere/photos"})
    return folder


def without_tracks(model, points):
    none = np.empty(0, np.int64)
    return replace(
        model,
        points=model.points[:points],
        track_image=none,
        track_point=none,
        track_xy=np.empty((0, 2)),
    )


def said(folder, tmp_path, **settings):
    with pytest.raises(ValueError, match=r"^(mine|split): ") as caught:
        mine(folder, tmp_path / "pairs", MineConfig(**settings))
    assert not (tmp_path / "pairs" / "done").exists()
    return str(caught.value)


def test_no_models(tmp_path):
    assert said(reconstruction(tmp_path / "sfm", [], unregistered=5), tmp_path) == (
        "mine: expected a 3D model, got none of 5 usable photos "
        "(3 x matches no other photo, 2 x place has too few photos); add photos that overlap more"
    )


@pytest.mark.parametrize(("points", "got"), [(0, "none"), (7, "14 that no two photos see")])
def test_no_shared_points(ring_model, tmp_path, points, got):
    models = [without_tracks(ring_model(seed, place=seed), points) for seed in (0, 1)]
    assert said(reconstruction(tmp_path / "sfm", models), tmp_path) == (
        f"mine: expected 3D points that photos share, got {got} in 2 models; poses are not enough, "
        "reconstruct with points"
    )


def test_nothing_within_the_limits(ring_model, tmp_path):
    folder = reconstruction(tmp_path / "sfm", [ring_model(seed, place=seed) for seed in (0, 1)])
    text = said(folder, tmp_path, min_overlap=0.999)
    assert text.startswith("mine: expected positives, got none of ")
    assert text.endswith(" x pair: overlap at most 0.999); loosen these limits of [pairs]")


def test_positives_in_one_of_two_places(ring_model, tmp_path):
    models = [ring_model(0, place=0), without_tracks(ring_model(1, place=1), 9)]
    text = said(reconstruction(tmp_path / "sfm", models), tmp_path)
    assert text.startswith(
        "mine: expected positives in at least 2 places, got them in 1 of 2 reconstructed ones ("
    )
    assert text.endswith("; loosen these limits of [pairs], or set pairs.apart_per_query")
