"""Poolings compared on classification: the layouts that photos come in, what is learned, and bad input."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from cnnimretrieval.networks.network import NetworkConfig, build
from experiments.benchmarks import classification
from experiments.benchmarks.classification import Trial, average_precisions, difference, maps_of
from experiments.benchmarks.contenders.pooled_classifier import WAYS, Learning, MeanAndMax, learn
from experiments.benchmarks.material.classified_photos import read_folders, read_pets, render_places
from experiments.demo.collection import DemoConfig

NETWORK = ("--backbone", "squeezenet1_1", "--weights", "random", "--side", "40", "--workers", "0")
COLOURS = ((200, 40, 30), (40, 180, 60), (30, 60, 210))


def _photo(path, colour, seed, size=(60, 48)):
    rng = np.random.default_rng(seed)
    levels = np.asarray(colour) + rng.integers(-30, 30, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Three breeds as published: classes from 1, the photos of a class told apart by number."""
    folder = tmp_path / "pets"
    (folder / "annotations").mkdir(parents=True)
    for number, split in enumerate(("trainval", "test")):
        lines = []
        for label, colour in enumerate(COLOURS, start=1):
            for one in range(3):
                name = f"breed_{label}_{10 * number + one}"
                _photo(folder / "images" / f"{name}.jpg", colour, label * 100 + number * 10 + one)
                lines.append(f"{name} {label} 1 {label}")
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_pets_are_read_as_published(pets):
    found = read_pets(pets)
    assert (found.num_classes, len(found.paths)) == (3, 18)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2
    assert found.test_photos(0).tolist() == [False] * 9 + [True] * 9
    assert found.test_photos(5) is found.test_photos(0)
    assert found.paths[9].name == "breed_1_10.jpg"
    assert found.what == "Oxford-IIIT Pets, 3 breeds, published split"


def test_pets_of_another_layout_are_told_in_one_line(pets, capsys):
    lists = pets / "annotations"
    good = (lists / "test.txt").read_text()

    def said(content):
        (lists / "test.txt").write_text(content)
        assert classification.main(["--pets", str(pets), *NETWORK]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    path = lists / "test.txt"
    again = "unpack the annotations again"
    assert said(good + "breed_1_10\n") == (
        f"{path}, line 10: expected the name of a photo and the number of its class, got 'breed_1_10'; "
        f"{again}"
    )
    assert said(good + "\nbreed_1_99 1 1 1\n") == (
        f"{path}, line 11: expected the photo {pets}/images/breed_1_99.jpg, got no such file; "
        "unpack the images again"
    )
    assert said(good + "breed_2_0 2 1 2\n") == (
        f"Oxford-IIIT Pets {pets}: expected every photo in one list, got breed_2_0 in both; {again}"
    )
    assert said(good.rsplit("breed_3", 2)[0]) == (
        f"Oxford-IIIT Pets {pets}: expected at least 2 photos of each class in each list, "
        f"got 1 of class 3 in test.txt; {again}"
    )
    (pets / "images" / "breed_3_12.jpg").write_bytes(b"no photo")
    assert said(good) == (
        f"photo {pets}/images/breed_3_12.jpg: expected an image, got 'not an image'; replace or remove it"
    )
    path.unlink()
    assert classification.main(["--pets", str(pets), *NETWORK]) == 1
    assert capsys.readouterr().err == (
        f"Oxford-IIIT Pets {pets}: expected images/ and annotations/ with trainval.txt and test.txt, "
        "got no annotations/test.txt; give the folder both archives were unpacked in\n"
    )


def test_folders_are_classes_and_half_of_each_is_tested(tmp_path):
    for name, count in (("a", 5), ("b", 4), ("small", 3)):
        for number in range(count):
            _photo(tmp_path / name / f"{number}.png", (90, 90, 90), number)
    _photo(tmp_path / "of-no-class.png", (90, 90, 90), 0)
    found = read_folders(tmp_path)
    assert found.labels.tolist() == [0] * 5 + [1] * 4
    assert found.what.startswith(f"2 folders of {tmp_path}, 1 smaller ones left out; half")
    drawn = [found.test_photos(seed) for seed in range(4)]
    for one in drawn:
        assert (one[:5].sum(), one[5:].sum()) == (2, 2)
    assert len({tuple(one) for one in drawn}) > 1
    np.testing.assert_array_equal(drawn[3], found.test_photos(3))


def test_too_few_classes_and_no_photos_are_told(tmp_path, capsys):
    for number in range(4):
        _photo(tmp_path / "only" / f"{number}.png", (90, 90, 90), number)
    assert classification.main(["--folders", str(tmp_path), *NETWORK]) == 1
    assert capsys.readouterr().err == (
        f"photos {tmp_path}: expected at least 2 classes with 4 photos each, got 1; give another folder\n"
    )
    assert classification.main(["--folders", str(tmp_path / "none"), *NETWORK]) == 1
    assert capsys.readouterr().err == (
        f"photos {tmp_path}/none: expected JPEG or PNG files, got none; give another folder\n"
    )
    with pytest.raises(SystemExit) as stopped:
        classification.main(["--folders", str(tmp_path), "--seeds", "0"])
    assert stopped.value.code == 2
    assert "--seeds: expected at least 1, got 0; give a larger one" in capsys.readouterr().err


def test_rendered_places_are_classes(tmp_path):
    config = DemoConfig(unrelated=0, places=2, min_views=2, max_views=2, width=64, height=64, px_per_m=12)
    found = render_places(tmp_path, config, workers=0)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert all(path.is_file() for path in found.paths)
    assert "stand-in" in found.what


def _maps(classes=3, each=16, noise=0.1):
    """Maps of 6 channels: class k has a strong spot in channel k, somewhere, and noise everywhere."""
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(classes), each)
    maps = noise * rng.random((len(labels), 6, 3, 4))
    for row, label in enumerate(labels):
        maps[row, label, rng.integers(3), rng.integers(4)] += 2.0
    return maps.astype(np.float16), labels, np.tile(np.arange(each) % 2 == 1, classes)


@pytest.mark.parametrize("name", WAYS)
def test_every_way_learns_what_there_is_to_see(name):
    maps, labels, is_test = _maps()
    learning = Learning(steps=120, batch=16, rate=1e-2)
    found = learn(WAYS[name], maps, labels, is_test, 0, learning)
    assert (found.predicted == labels[is_test]).mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1.0, atol=1e-4)
    again = learn(WAYS[name], maps, labels, is_test, 0, learning)
    np.testing.assert_array_equal(found.descriptors, again.descriptors)
    if name == "GeM, p learned":
        assert found.exponent != pytest.approx(3.0, abs=1e-3)
    else:
        assert found.exponent == (pytest.approx(3.0) if name == "GeM, p = 3" else None)


def test_descriptors_are_the_pooled_maps_where_nothing_is_learned():
    maps, labels, is_test = _maps()
    known = Learning(steps=1, batch=4)
    pooled = {
        "GeM, p = 3": np.cbrt((maps[is_test].astype(np.float64) ** 3).mean(axis=(2, 3))),
        "average": maps[is_test].astype(np.float64).mean(axis=(2, 3)),
        "max": maps[is_test].astype(np.float64).max(axis=(2, 3)),
    }
    for name, vectors in pooled.items():
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        found = learn(WAYS[name], maps, labels, is_test, 1, known).descriptors
        np.testing.assert_allclose(found, unit, atol=2e-5)


def test_what_is_tested_teaches_nothing():
    maps, labels, is_test = _maps()
    way, learning = WAYS["mean and max, learned layer"], Learning(steps=5)
    before = learn(way, maps, labels, is_test, 0, learning).descriptors
    others = labels.copy()
    others[is_test] = np.roll(labels[is_test], 5)
    np.testing.assert_array_equal(learn(way, maps, others, is_test, 0, learning).descriptors, before)


def test_mean_and_max_stand_side_by_side():
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])
    found = MeanAndMax()(x)[0]
    np.testing.assert_allclose(found, [0.5**0.5, 0.5**0.5, 0.6, 0.8], atol=1e-5)


def test_average_precisions_by_hand():
    angles = np.radians([0.0, 10.0, 15.0, 90.0])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)])
    # The first finds 10 before 15 degrees: its only other is second. The second finds 15 before 0 degrees.
    found = average_precisions(vectors, np.array([0, 1, 0, 1]))
    # A lone positive at place r (from 0) scores (0 + 1 / (r + 1)) / 2, or 1 at the first.
    np.testing.assert_allclose(found, [0.25, 1 / 6, 0.25, 0.25])


def test_differences_are_means_over_classes_of_all_seeds():
    def trial(right, labels):
        return Trial(
            right=np.array(right, float),
            average_precision=np.zeros(len(right)),
            labels=np.array(labels),
            exponent=None,
            seconds=0.0,
        )

    one = [trial([0, 0, 0, 1], [0, 0, 0, 1]), trial([1, 1], [0, 1])]
    other = [trial([1, 0, 0, 1], [0, 0, 0, 1]), trial([1, 0], [0, 1])]
    found = difference(one, other, "right")
    assert found.mean == pytest.approx((1 / 3 + 0 + 0 - 1) / 4)
    assert (found.count, found.better, found.worse) == (4, 1, 1)


def test_maps_are_of_the_central_square(tmp_path):
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random")
    levels = np.zeros((40, 80, 3), np.uint8)
    levels[:, 20:60] = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    Image.fromarray(levels).save(tmp_path / "wide.png")
    Image.fromarray(levels[:, 20:60]).save(tmp_path / "square.png")
    wide, square = maps_of(
        network, [tmp_path / "wide.png", tmp_path / "square.png"], 40, tmp_path / "m.npy", 0
    )
    np.testing.assert_array_equal(wide, square)
    assert np.abs(wide).max() > 0


def test_a_table_and_json_of_pets(pets, capsys):
    words = ["--pets", str(pets), "--seeds", "2", "--steps", "5", *NETWORK]
    assert classification.main(words) == 0
    printed = capsys.readouterr().out
    what = "Oxford-IIIT Pets, 3 breeds, published split: 9 photos to learn from, 9 to test"
    assert printed.startswith(f"{what}; 2 seeds, squeezenet1_1 at 40 px, 5 steps\n")
    for name in WAYS:
        assert f"| {name} |" in printed
    assert "best at classification: " in printed
    assert classification.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["photos"] == what
    assert [*told["poolings"]] == [*WAYS]
    first = told["poolings"]["GeM, p = 3"]
    assert len(first["accuracy"]) == len(first["map"]) == 2
    assert first["differences"]["accuracy"]["mean"] == 0.0
    assert f"| GeM, p = 3 | {np.mean(first['accuracy']):.4f} (" in printed
