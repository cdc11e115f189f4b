import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pairs.reconstruction
from groundwork.files import write_json, write_table
from groundwork.records import mark_done
from pairs.mine import MineConfig, mine
from pairs.pair_table import read_pair_table
from pairs.reconstruction import read_reconstruction
from sfm.model import Model, save_model

CONFIG = MineConfig.model_validate({"heldout": {"min_shared_points": 10}})


def write_reconstruction(folder: Path, models: list[Model], extra=(), rename=str) -> None:
    """The files that mining reads; `extra` are rows (name, status, place).

    A photo's content is in the order of its name before it is renamed.
    """
    rows = {}
    for number, model in enumerate(models):
        renamed = replace(model, names=tuple(map(rename, model.names)))
        save_model(renamed, folder / "models" / str(number) / "arrays.npz")
        for name, (width, height) in zip(model.names, model.sizes.tolist(), strict=True):
            rows.setdefault(name, (name, "registered", "", number, model.place, width, height, 1))
    for name, status, place in extra:
        rows[name] = (name, status, "", -1, place, 40, 30, 1)
    columns = ["name", "status", "reason", "model", "place", "width", "height", "orientation"]
    images = pd.DataFrame(rows.values(), columns=columns)
    images = images.assign(sha256="of " + images["name"], name=images["name"].map(rename))
    write_table(folder / "images.parquet", images.sort_values("name", ignore_index=True))
    write_json(folder / "photos.json", {"version": 1, "photos": "/somewhere/photos"})


@pytest.fixture
def reconstruction(ring_model, tmp_path) -> Path:
    """Three places; place 1 has two models that both hold its image 01-013.jpg."""
    shared = ("01-013.jpg", *(f"08-{i:03d}.jpg" for i in range(12)))
    models = [
        ring_model(0, place=0),
        ring_model(1, place=1),
        ring_model(2, place=2),
        ring_model(8, names=shared, place=1),
    ]
    extra = [
        *((f"{place:02d}-loose.jpg", "unregistered", place) for place in range(3)),
        ("twin of 00.jpg", "duplicate", -1),
        ("broken.jpg", "rejected", -1),
        ("nothing like it.jpg", "unregistered", -1),
        ("neither.jpg", "unregistered", -1),
    ]
    write_reconstruction(tmp_path / "sfm", models, extra)
    return tmp_path / "sfm"


def backwards(name: str) -> str:
    """Another name, by which photos have another order."""
    return f"deep/{name[::-1]}"


def test_other_names_give_the_same_pairs(ring_model, tmp_path):
    models = [ring_model(seed, place=seed) for seed in range(4)]
    extra = [("00-loose.jpg", "unregistered", 0), ("neither.jpg", "unregistered", -1)]
    found = []
    for folder, rename in (("first", str), ("other", backwards)):
        write_reconstruction(tmp_path / folder, models, extra, rename)
        mined = mine(tmp_path / folder, tmp_path / folder / "pairs", CONFIG)
        found.append((mined, read_pair_table(tmp_path / folder / "pairs")))
    (first, one), (other, two) = found
    assert one.names != tuple(sorted(two.names))
    assert tuple(map(backwards, one.names)) == two.names
    for array in ("cluster", "place", "is_val", "is_choosing", "sizes"):
        np.testing.assert_array_equal(getattr(one, array), getattr(two, array))
    for field in fields(one.positives):
        np.testing.assert_array_equal(getattr(one.positives, field.name), getattr(two.positives, field.name))
    for query, renamed in zip(first.heldout, other.heldout, strict=True):
        assert (renamed.query, renamed.box, renamed.seed) == (backwards(query.query), query.box, query.seed)
        assert set(renamed.positives) == set(map(backwards, query.positives))
        assert (renamed.purpose, set(renamed.far)) == (query.purpose, set(map(backwards, query.far)))


def test_tables_without_digests_are_mined_by_name(ring_model, tmp_path):
    write_reconstruction(tmp_path, [ring_model(seed, place=seed) for seed in range(2)], rename=backwards)
    images = pd.read_parquet(tmp_path / "images.parquet").drop(columns="sha256")
    write_table(tmp_path / "images.parquet", images)
    assert list(mine(tmp_path, tmp_path / "pairs", CONFIG).table.names) == images["name"].tolist()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_the_files_hold_what_the_models_prove(reconstruction, tmp_path):
    out = tmp_path / "pairs"
    result = mine(reconstruction, out, CONFIG)

    images = pd.read_parquet(out / "images.parquet").set_index("name")
    assert len(images) == 3 * 14 + 12 + 5
    assert not {"twin of 00.jpg", "broken.jpg"} & set(images.index)
    assert images.loc["01-013.jpg", ["cluster", "place"]].tolist() == [1, 1]
    assert images.loc["08-000.jpg", ["cluster", "place"]].tolist() == [3, 1]
    assert images.loc["00-loose.jpg", ["cluster", "place"]].tolist() == [-1, 0]
    assert images.loc["neither.jpg", ["cluster", "place"]].tolist() == [-1, -1]
    assert images[images["place"] >= 0].groupby("place")["split"].nunique().max() == 1

    positives = pd.read_parquet(out / "positives.parquet")
    candidates = pd.read_parquet(out / "candidates.parquet")
    assert (positives["overlap"] > 0.2).all()
    assert (positives["scale_change"] <= 1.5).all()
    assert not candidates.duplicated(["query", "positive"]).any()
    chosen = candidates[(candidates["overlap"] > 0.2) & (candidates["scale_change"] <= 1.5)]
    assert chosen["query"].tolist() == positives["query"].tolist()
    assert chosen["positive"].tolist() == positives["positive"].tolist()
    # The image of two models has positives in both.
    of_shared = set(positives["positive"][positives["query"] == "01-013.jpg"].str[:2])
    assert of_shared == {"01", "08"}

    # Where the points lie is known of each pair, those of the image of two models among them.
    table = read_pair_table(out)
    np.testing.assert_array_equal(table.shared_points.sum(axis=(1, 2)), table.positives.shared_points)

    heldout = pd.read_parquet(out / "heldout.parquet")
    held_out = set(images["place"][(images["split"] == "val") & (images["place"] >= 0)])
    assert set(heldout["place"]) > held_out
    of_held_out = heldout["place"].isin(held_out)
    assert set(heldout["kind"][of_held_out]) == {"whole", "crop", "retaken"}
    assert set(heldout["kind"][~of_held_out]) == {"crop", "retaken"}
    assert set(heldout["purpose"][of_held_out]) == {"report"}
    assert set(heldout["purpose"][~of_held_out]) == {"report", "choose"}
    for row in heldout.itertuples():
        assert set(row.far) <= set(row.positives) <= set(images.index[images["place"] == row.place])
        assert row.query not in row.positives
    assert result.stats["heldout"] == heldout["kind"].value_counts().to_dict()
    photos = json.loads((out / "photos.json").read_bytes())
    assert len(photos.pop("content")) == 64
    assert photos == json.loads((reconstruction / "photos.json").read_bytes())


def test_near_copies_of_all_models_are_told_by_name(reconstruction):
    read = read_reconstruction(reconstruction)
    assert read.copies_by_name() == {}
    row = read.names.index
    read.__dict__["near_copies"] = np.array([[row("00-003.jpg"), row("00-001.jpg")], [row("00-001.jpg"), 0]])
    assert read.copies_by_name() == {
        "00-003.jpg": {"00-001.jpg"},
        "00-001.jpg": {"00-003.jpg", read.names[0]},
        read.names[0]: {"00-001.jpg"},
    }


def test_everything_dropped_is_counted_by_reason(reconstruction, tmp_path):
    stats = mine(reconstruction, tmp_path / "pairs", CONFIG).stats
    dropped = stats["dropped"]
    assert dropped["image: duplicate"] == dropped["image: rejected"] == 1
    assert dropped["image: matched no other"] == 2
    assert dropped["image: in no model of its place"] == 3
    by_rule = dropped["pair: overlap at most 0.2"] + dropped["pair: scale change above 1.5"]
    assert stats["positives"] + by_rule == stats["candidates"]
    assert stats["queries"] + dropped["image: registered without a positive"] == 3 * 14 + 12
    assert (stats["clusters"], stats["places"]) == (4, 3)
    sides = stats["split"]
    assert sides["train"]["places"] + sides["val"]["places"] == 3
    assert sides["train"]["positives"] + sides["val"]["positives"] == stats["positives"]


def test_a_second_run_reads_the_first_and_a_changed_option_does_not(reconstruction, tmp_path, monkeypatch):
    out = tmp_path / "pairs"
    first = mine(reconstruction, out, CONFIG)
    files = snapshot(out)

    with monkeypatch.context() as nothing_is_mined:
        nothing_is_mined.setattr(pairs.reconstruction, "pair_candidates", None)
        again = mine(reconstruction, out, CONFIG)
    assert again.stats == first.stats
    assert again.heldout == first.heldout
    assert again.table.names == first.table.names
    np.testing.assert_array_equal(again.table.positives.overlap, first.table.positives.overlap)
    np.testing.assert_array_equal(again.candidates.baseline, first.candidates.baseline)

    stricter = mine(reconstruction, out, CONFIG.model_copy(update={"min_overlap": 0.4}))
    assert 0 < len(stricter.table.positives) < len(first.table.positives)
    mine(reconstruction, out, CONFIG)
    assert snapshot(out) == files


def test_a_lost_file_and_a_changed_model_are_mined_again(reconstruction, ring_model, tmp_path):
    out = tmp_path / "pairs"
    first = mine(reconstruction, out, CONFIG)
    (out / "candidates.parquet").unlink()
    assert len(mine(reconstruction, out, CONFIG).candidates) == len(first.candidates)
    assert (out / "candidates.parquet").is_file()

    save_model(ring_model(2, num_points=200, place=2), reconstruction / "models" / "2" / "arrays.npz")
    assert mine(reconstruction, out, CONFIG).stats["positives"] != first.stats["positives"]


def test_one_place_is_an_error_that_says_what_to_do(ring_model, tmp_path):
    write_reconstruction(tmp_path / "sfm", [ring_model(0)])
    with pytest.raises(ValueError, match="split") as error:
        mine(tmp_path / "sfm", tmp_path / "pairs", CONFIG)
    assert str(error.value) == (
        "split: expected at least 2 places with matching pairs, got 1; "
        "add photos of other places, several of each, or set pairs.apart_per_query"
    )
    assert not (tmp_path / "pairs" / "done").exists()


def test_no_reconstruction_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        mine(tmp_path, tmp_path / "pairs", CONFIG)
    assert str(error.value) == (
        f"mine {tmp_path}: expected a reconstruction with images.parquet and photos.json, got none; "
        "run reconstruct first"
    )


def test_a_model_of_other_images_is_named(ring_model, tmp_path):
    write_reconstruction(tmp_path / "sfm", [ring_model(0), ring_model(1, place=1)])
    save_model(ring_model(5), tmp_path / "sfm" / "models" / "2" / "arrays.npz")
    with pytest.raises(ValueError, match=r"expected usable images of images.parquet, got '05-000.jpg'"):
        mine(tmp_path / "sfm", tmp_path / "pairs", CONFIG)


def write_descriptors(folder: Path, names: list[str], key: str = "first") -> None:
    folder.mkdir(exist_ok=True)
    vectors = np.random.default_rng(len(key)).normal(size=(len(names), 6)).astype(np.float32)
    np.save(folder / "vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    write_table(
        folder / "images.parquet",
        pd.DataFrame({"name": names, **dict.fromkeys(("x1", "y1", "x2", "y2"), np.nan)}),
    )
    mark_done(folder, "extract", key)


@pytest.mark.parametrize("strategy", ["m1", "m2", "weighted"])
def test_other_strategies_give_their_positives_in_one_place(reconstruction, tmp_path, strategy):
    names = pd.read_parquet(reconstruction / "images.parquet")["name"].tolist()
    write_descriptors(tmp_path / "descriptors", names)
    config = CONFIG.model_copy(
        update={"strategy": strategy, "descriptors": tmp_path / "descriptors", "nearest_cameras": 3}
    )
    result = mine(reconstruction, tmp_path / "pairs", config)
    positives = pd.read_parquet(tmp_path / "pairs" / "positives.parquet")
    assert set(positives["strategy"]) == {strategy}
    one_each = positives["query"].is_unique
    assert one_each == (strategy != "weighted")
    if strategy == "weighted":
        assert len(positives) == len(result.candidates)
        assert (positives["weight"] == positives["overlap"]).all()
    else:
        # An image of two models has neighbours in both, and one positive.
        assert len(positives) == 3 * 14 + 12


def test_other_descriptors_mine_again_but_not_the_same_ones_elsewhere(reconstruction, tmp_path):
    names = pd.read_parquet(reconstruction / "images.parquet")["name"].tolist()
    write_descriptors(tmp_path / "a", names)
    write_descriptors(tmp_path / "b", names)
    write_descriptors(tmp_path / "c", names, key="second")
    files = []
    for folder in ("a", "b", "c"):
        config = CONFIG.model_copy(update={"strategy": "m1", "descriptors": tmp_path / folder})
        mine(reconstruction, tmp_path / "pairs", config)
        files.append((tmp_path / "pairs" / "positives.parquet").stat().st_mtime_ns)
    assert files[0] == files[1] < files[2]


def test_m1_without_descriptors_says_what_to_do(reconstruction, tmp_path):
    with pytest.raises(FileNotFoundError, match="run extract on the photos and give its folder"):
        mine(reconstruction, tmp_path / "pairs", CONFIG.model_copy(update={"strategy": "m1"}))


def test_photos_without_a_place_are_held_out_in_the_same_share(ring_model, tmp_path):
    models = [ring_model(seed, place=seed) for seed in range(4)]
    loose = [(f"loose-{number:02d}.jpg", "unregistered", -1) for number in range(20)]
    write_reconstruction(tmp_path, models, loose)
    split = {"val_share": 0.25, "choosing_share": 0}
    table = mine(tmp_path, tmp_path / "pairs", MineConfig.model_validate({"split": split})).table
    assert (table.is_val & (table.place < 0)).sum() == 5
    assert len(np.unique(table.place[table.is_val & (table.place >= 0)])) == 1


def test_places_to_choose_by_are_asked_for_that_purpose(ring_model, tmp_path):
    write_reconstruction(tmp_path, [ring_model(seed, place=seed) for seed in range(6)])
    split = {"val_share": 0.2, "choosing_share": 0.35}
    config = MineConfig.model_validate({"split": split, "heldout": {"min_shared_points": 10}})
    mined = mine(tmp_path, tmp_path / "pairs", config)
    table = mined.table
    choosing = set(table.place[table.is_choosing].tolist())
    reported = set(table.place[table.is_val & ~table.is_choosing].tolist())
    assert (len(choosing), len(reported)) == (2, 1)
    purposes = {query.place: query.purpose for query in mined.heldout if query.kind == "whole"}
    assert purposes == dict.fromkeys(choosing, "choose") | dict.fromkeys(reported, "report")
