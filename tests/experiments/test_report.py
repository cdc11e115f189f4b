import base64
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments.report import geometry
from experiments.report.headline import headline
from experiments.report.page import write_report
from experiments.report.reading import read_run
from experiments.report.sheets import ranking_sheet, tuple_sheet
from experiments.report.tables import flattened, photo_counts, score_rows
from experiments.report.thumbnails import Thumbnails
from experiments.report.upright import upright
from groundwork.files import write_json, write_table
from sfm.model import Model, save_model

ODD = "<b>&odd name.jpg"
NAMES = (ODD, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")


def scores(whole, crop):
    def kind(score, queries):
        return {
            "map": score,
            "recall_at_1": score - 0.0625,
            "map_per_query": score - 0.03,
            "recall_at_1_per_query": score - 0.04,
            "queries": queries,
            "places": 6,
        }

    return {**kind(crop, 21), "whole": kind(whole, 7), "crop": kind(crop, 21)}


EVALUATION = {
    "off_the_shelf": scores(0.9371, 0.6123),
    "off_the_shelf_pca": scores(0.9412, 0.6234),
    "off_the_shelf_whitened": scores(0.9423, 0.6301),
    "fine_tuned": scores(0.9513, 0.6345),
    "fine_tuned_whitened": scores(0.9487, 0.6789),
}
GAIN = {
    **{"kind": "crop", "map": 0.0555, "standard_error": 0.0111, "places": 6, "proven": True},
    **{"places_better": 5, "places_worse": 1},
}
EPOCHS = [
    {"epoch": 0, "loss": None, "validation": {"map_crop": 0.6123, "map_whole": 0.9371}},
    {"epoch": 1, "loss": 0.25, "validation": {"map_crop": 0.6345, "map_whole": 0.9513}},
]
NO_PROOF = " So few places do not prove such a difference."
BY_TRAINING = {**GAIN, "map": 0.0488, "standard_error": 0.0121, "places_better": 4, "places_worse": 2}
TRAIN = {
    **{"kept": "fine_tuned_whitened", "gain": GAIN, "gain_by_training": BY_TRAINING},
    **{"epochs": EPOCHS, "seconds": 63.5, "verdict": "-"},
}
SFM = {
    **{"images": 1234, "rejected": 2, "duplicates": 3, "registered": 1200, "models": 2, "places": 2},
    "seconds": 99.0,
    "reasons": {"matches no other photo": 29, "truncated": 2},
    "stages": {"matching": {"seconds": 43.25}, "features": {"seconds": 21.5}},
}
PAIRS = {
    **{"queries": 5, "positives": 8, "clusters": 2, "places": 2, "seconds": 0.75},
    "dropped": {"pair: overlap at most 0.2": 677},
    "split": {"train": {"images": 4}, "val": {"images": 2}},
}
MANIFEST = {
    "command": ["cnnimretrieval", "run", "<photos>"],
    **{"started": "2031-02-03T04:05:06+00:00", "seconds": 12.5, "seed": 17, "protocol": "small"},
    **{"config": {"loop": {"margin": 0.8125, "clip": None}}, "weights": "w.safetensors"},
    **{"photos": "/photos", "input_sha256": "c0ffee"},
    "packages": {"numpy": "2.99"},
    "machine": {"cores": 2, "memory_gib": 23.5},
}


def ring_model(names=NAMES, place=0, seed=1):
    """Cameras on an arc before a wall, level, all upright; y is up in this world."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(-0.7, 0.5, len(names))
    centres = np.stack([5 * np.sin(angles), np.full(len(names), 1.5), 5 * np.cos(angles)], axis=1)
    rotations = []
    for centre in centres:
        forward = (np.array([0, 1.5, 0]) - centre) / 5
        right = np.cross(forward, [0, 1, 0])
        rotations.append(np.stack([right, np.cross(forward, right), forward]))
    rotations = np.array(rotations)
    points = np.concatenate([rng.uniform((-3, 0, -0.2), (3, 4, 0.2), (80, 3)), [[0, 0, -500.0]]])
    order = np.argsort(names)
    return Model(
        names=tuple(sorted(names)),
        rotations=rotations[order],
        translations=-np.einsum("nij,nj->ni", rotations, centres)[order],
        focal_px=np.full(len(names), 100.0),
        sizes=np.full((len(names), 2), 90),
        points=points,
        track_image=np.array([0, 1]),
        track_point=np.array([3, 3]),
        track_xy=np.array([[4.0, 5.0], [6.0, 7.0]]),
        place=place,
    )


def ranking(row, query, box, ranked, ap, kind="crop"):
    return {
        **{"kind": kind, "query": query, "rotation_deg": 4.0, "seed": 3, "place": 0, "row": row},
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        **{"ranked": list(ranked), "positives": ["a.jpg", "b.jpg"], "junk": [ODD], "average_precision": ap},
    }


@pytest.fixture(autouse=True, scope="module")
def _nothing_to_match():
    """Flat photos have nothing that geometry could prove; test_report_geometry.py has others."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(geometry, "_PACKAGE", "no_such_package_as_this")
        yield


@pytest.fixture
def work(tmp_path):
    """A finished run of six photos."""
    return finished_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page about it."""
    return write_report(finished_run(tmp_path_factory.mktemp("run"))).read_text(encoding="utf-8")


def finished_run(folder):
    photos, out = folder / "photos", folder / "work"
    photos.mkdir()
    for k, name in enumerate(NAMES[:-1]):
        Image.fromarray(np.full((60, 90, 3), 40 * k, dtype=np.uint8)).save(photos / name, format="JPEG")
    (photos / "e.jpg").write_bytes(b"no photo")
    write_json(out / "pairs/photos.json", {"photos": str(photos)})
    write_json(out / "sfm/stats.json", SFM)
    write_json(out / "pairs/stats.json", PAIRS)
    write_json(out / "manifest.json", MANIFEST)
    write_json(out / "metrics.json", {"sfm": SFM, "pairs": PAIRS, "train": TRAIN, "evaluation": EVALUATION})
    write_table(out / "sfm/images.parquet", pd.DataFrame({"name": NAMES, "orientation": 1}))
    save_model(ring_model(), out / "sfm/models/0/arrays.npz")
    pairs = [(ODD, "a.jpg"), ("a.jpg", ODD), ("b.jpg", "a.jpg"), ("c.jpg", "e.jpg")]
    positives = pd.DataFrame(pairs, columns=["query", "positive"])
    positives = positives.assign(shared_points=1543, overlap=0.4321, scale_change=1.278, angle_deg=23.4)
    write_table(out / "pairs/positives.parquet", positives)
    tuples = pd.DataFrame(pairs, columns=["query", "positive"]).assign(negatives=[["d.jpg", "c.jpg"]] * 4)
    write_table(out / "model/tuples.parquet", tuples)
    box, other = (5, 5, 50, 40), (0, 0, 30, 30)
    write_table(
        out / "model/rankings.parquet",
        pd.DataFrame(
            [
                ranking("off_the_shelf", "c.jpg", box, ("d.jpg", ODD, "a.jpg"), 0.321),
                ranking("fine_tuned_whitened", "c.jpg", box, ("a.jpg", "b.jpg", ODD), 0.987),
                ranking("off_the_shelf", "d.jpg", other, ("a.jpg", "c.jpg"), 0.777),
                ranking("fine_tuned_whitened", "d.jpg", other, ("c.jpg", "a.jpg"), 0.555),
            ]
        ),
    )
    return out


def text_of(page):
    """What a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S))


def test_the_page_shows_the_numbers_of_the_run(page):
    shown = text_of(page)
    for number in ("0.6789", "0.6123", "0.9513", "0.6489", "0.616"):
        assert number in shown
    for words in (
        "Fine-tuned + learned whitening: mAP 0.679, from 0.612 off the shelf",
        "1,234 photos found",
        "unregistered 29",
        "matches no other photo 29",
        "pair: overlap at most 0.2 677",
        "matching 43.2",
        "1,543 shared points, overlap 0.43, scale ×1.28, 23°",
        "loop.margin 0.8125",
        "numpy 2.99",
        "seed 17",
        "model 0, place 0: 6 photos, 81 points",
        "before AP 0.321",
        "after AP 0.987",
    ):
        assert words in shown
    assert "not complete" not in shown


def test_the_page_is_one_file_of_readable_pictures(page):
    sources = re.findall(r'<img src="([^"]*)"', page)
    kinds = [source.split(";")[0] for source in sources]
    assert kinds.count("data:image/svg+xml") == 2
    # Of the queries and of the model.
    assert kinds.count("data:image/png") == 2
    assert kinds.count("data:image/jpeg") >= 12
    for source in sources:
        content = base64.b64decode(source.split(",", 1)[1])
        if "svg" not in source[:20]:
            Image.open(io.BytesIO(content)).load()
    # Only the 3D view is another file.
    assert set(re.findall(r'(?:src|href)="(?!data:|#)([^"#]*)', page)) == {"models.html"}
    assert "not readable" in text_of(page)


def test_names_are_escaped(page):
    assert "&lt;b&gt;&amp;odd name.jpg" in page
    assert ODD not in page
    assert "<photos>" not in page


def test_the_same_run_gives_the_same_page(work, page):
    path = write_report(work)
    assert path == work / "report/index.html"
    assert path.read_text(encoding="utf-8") == page
    assert sorted(path.name for path in (work / "report").iterdir()) == ["index.html", "models.html"]
    viewer = (work / "report/models.html").read_bytes()
    write_report(work)
    assert (work / "report/models.html").read_bytes() == viewer


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("metrics.json", "metrics.json: the run as a whole has not finished"),
        ("manifest.json", "manifest.json: settings, versions and machine are not recorded"),
        ("model", "model/rankings.parquet: there are no rankings to show"),
        ("sfm/models", "sfm/models: there is no 3D model to draw"),
        ("pairs", "pairs/positives.parquet: there are no positives to show"),
        ("sfm", "sfm/stats.json: what became of the photos is not known"),
    ],
)
def test_what_is_missing_is_said(work, gone, said):
    path = work / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in read_run(work).missing


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ("sfm/stats.json", "sfm/stats.json is damaged: what became of the photos is not known"),
        ("manifest.json", "manifest.json is damaged: settings, versions and machine are not recorded"),
        ("pairs/positives.parquet", "pairs/positives.parquet is damaged: there are no positives to show"),
        ("sfm/graph.parquet", "sfm/graph.parquet is damaged"),
    ],
)
@pytest.mark.parametrize("how", ["cut", "emptied", "another type", "a folder"])
def test_what_is_damaged_is_said_and_left_out(work, damaged, said, how):
    path = work / damaged
    content = path.read_bytes() if path.exists() else b"PAR1"
    path.unlink(missing_ok=True)
    if how == "a folder":
        path.mkdir()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "another type": b"[1]"}[how])
    assert said in read_run(work).missing
    assert "This page is not complete." in text_of(write_report(work).read_text(encoding="utf-8"))


def test_a_run_that_only_reconstructed_has_a_page_that_says_so(work):
    for gone in ("pairs", "model", "sfm/models"):
        shutil.rmtree(work / gone)
    for gone in ("metrics.json", "manifest.json"):
        (work / gone).unlink()
    shown = text_of(write_report(work).read_text(encoding="utf-8"))
    assert "The run has no scores yet" in shown
    assert "This page is not complete." in shown
    assert "sfm/models: there is no 3D model to draw" in shown
    assert "matches no other photo 29" in shown
    assert "Left out by mining Not known yet. Split by place Not known yet." in shown


def test_scores_of_a_training_by_itself_are_shown(work):
    (work / "metrics.json").unlink()
    write_json(work / "model/metrics.json", {"kept": "fine_tuned", "train": TRAIN, "evaluation": EVALUATION})
    files = read_run(work)
    assert files.evaluation == EVALUATION
    assert files.train["kept"] == "fine_tuned_whitened"


def test_smaller_photos_are_shown_where_they_were_scored(work, page):
    assert "Smaller photos" not in page
    curve = [
        {"image_size": size, "map": {"crop": score, "whole": 0.9}, "seconds_per_photo": seconds}
        for size, score, seconds in ((362, 0.81, 0.03), (1024, 0.93, 0.24))
    ]
    with_metrics(work, curve=curve)
    shown = text_of(write_report(work).read_text(encoding="utf-8"))
    assert "Smaller photos What the network that is handed out reaches" in shown
    (figure,) = re.findall(
        r'<img src="([^"]*)" alt="mAP over the cost', write_report(work).read_text("utf-8")
    )
    drawn = base64.b64decode(figure.split(",", 1)[1]).decode()
    assert "362 px" in drawn
    assert "1024 px" in drawn


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="expected the folder of a run, got one without sfm, pairs and"
    ):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def with_metrics(work, **changes):
    stored = json.loads((work / "metrics.json").read_text(encoding="utf-8"))
    stored["train"] |= changes
    write_json(work / "metrics.json", stored)
    return headline(read_run(work))


def test_the_headline_says_when_fine_tuning_did_not_help(work):
    said = with_metrics(work, kept="off_the_shelf_pca", gain={**GAIN, "map": -0.0312})
    assert said.title == "Fine-tuning did not help: the network with PCA whitening is kept, mAP 0.623"
    assert not said.helped
    assert "-0.031 ± 0.011" in said.detail
    said = with_metrics(work, kept="off_the_shelf_whitened")
    assert "the network with learned whitening is kept" in said.title
    assert with_metrics(work, kept="off_the_shelf").title.endswith(
        "the network as it came is kept, mAP 0.612"
    )


def test_the_headline_names_its_basis_and_doubts_small_gains(work):
    sure = headline(read_run(work))
    assert sure.helped
    assert "21 crop queries of 6 held-out places" in sure.detail
    assert "with PCA whitening: +0.056 ± 0.011" in sure.detail
    assert "do not prove" not in sure.detail
    doubtful = with_metrics(work, gain={**GAIN, "standard_error": 0.04, "proven": False})
    assert f"worse on 1.{NO_PROOF} Fine-tuned" in doubtful.detail


def test_the_headline_tells_what_training_alone_gains(work):
    assert headline(read_run(work)).detail.endswith(
        "off the shelf with learned whitening, too: +0.049 ± 0.012 (standard error over places), "
        "better on 4 and worse on 2."
    )
    doubtful = with_metrics(work, gain_by_training={**BY_TRAINING, "proven": False})
    assert doubtful.detail.endswith(f"worse on 2.{NO_PROOF}")


def test_the_headline_does_not_call_an_unknown_error_nothing(work):
    said = with_metrics(work, gain={**GAIN, "standard_error": None, "proven": False})
    assert "+0.056 (standard error unknown), better on" in said.detail
    assert f"worse on 1.{NO_PROOF} Fine-tuned" in said.detail


@pytest.mark.parametrize(
    ("places", "error", "shown"),
    [(1, None, "(standard error unknown)"), (4, 0.0001, "± 0.000")],
)
def test_the_headline_claims_nothing_of_few_places(work, places, error, shown):
    stored = json.loads((work / "metrics.json").read_text(encoding="utf-8"))
    for row in stored["evaluation"].values():
        for kind in (row, row["crop"], row["whole"]):
            kind["places"] = places
    write_json(work / "metrics.json", stored)
    said = with_metrics(work, gain={**GAIN, "standard_error": error, "proven": False})
    some = "1 held-out place" if places == 1 else "4 held-out places"
    assert said.title == (
        f"Fine-tuned + learned whitening: mAP 0.679 on {some}, too few to say whether fine-tuning helped"
    )
    assert said.helped is None
    assert f"+0.056 {shown}" in said.detail
    assert f"worse on 1.{NO_PROOF} Fine-tuned" in said.detail


def test_files_found_add_up():
    rows = photo_counts(SFM)
    assert rows == [
        ("registered in a model", 1200),
        ("unregistered", 29),
        ("duplicate of another file", 3),
        ("rejected", 2),
    ]
    assert sum(number for _, number in rows) == SFM["images"]


def test_the_best_of_each_kind_and_the_kept_row_are_marked():
    rows = score_rows(EVALUATION, "fine_tuned_whitened")
    assert [row.kept for row in rows] == [False, False, False, False, True]
    assert [[cell.best for cell in row.cells] for row in rows] == [
        *[[False, False]] * 3,
        [False, True],
        [True, False],
    ]


def test_settings_are_flattened():
    assert list(flattened({"a": {"b": {"c": 1}, "d": None}, "e": [2, 3]})) == [
        ("a.b.c", "1"),
        ("a.d", "not set"),
        ("e", "[2, 3]"),
    ]


def test_rankings_show_the_largest_gain_and_loss_with_their_kinds(work):
    files = read_run(work)
    rose, fell = ranking_sheet(files.rankings, "fine_tuned_whitened", Thumbnails(files.photos))
    assert (rose.query.name, rose.before_ap, rose.after_ap) == ("c.jpg", 0.321, 0.987)
    # What is left out of the score is not shown.
    assert [cell.kind for cell in rose.before] == ["other", "positive"]
    assert [cell.name for cell in rose.after] == ["a.jpg", "b.jpg"]
    assert (fell.query.name, fell.after_ap) == ("d.jpg", 0.555)


def test_of_many_rankings_the_most_changed_are_shown_one_a_photo():
    before = {"a.jpg": 0.5, "b.jpg": 0.5, "c.jpg": 0.5, "d.jpg": 0.5, "e.jpg": 0.5}
    after = {"a.jpg": 0.6, "b.jpg": 0.9, "c.jpg": 0.1, "d.jpg": 0.4, "e.jpg": 0.5}
    frame = pd.DataFrame(
        [
            ranking(row, query, (0, 0, size, 9), ("a.jpg",), ap)
            for row, found in (("off_the_shelf", before), ("fine_tuned", after))
            for query, ap in found.items()
            for size in (9, 7)
        ]
    )
    shown = ranking_sheet(frame, "fine_tuned", Thumbnails(None), best=1, worst=1)
    assert [row.query.name for row in shown] == ["b.jpg", "c.jpg"]
    everything = ranking_sheet(frame, "fine_tuned", Thumbnails(None), best=5, worst=5)
    assert [row.query.name for row in everything] == ["b.jpg", "a.jpg", "d.jpg", "c.jpg"]


def test_contents_lead_to_every_part(page):
    (contents,) = re.findall(r'<nav class="contents".*?</nav>', page, flags=re.S)
    linked = re.findall(r'<a href="#(\w+)">([^<]+)</a>', contents)
    assert linked == re.findall(r'<section id="(\w+)">\n<h2>([^<]+)</h2>', page)
    assert len(linked) == 12


def test_files_that_were_not_used_are_listed_with_the_reason(work):
    status = ["rejected", "registered", "duplicate", "unregistered", "registered", "rejected"]
    reason = ["truncated", "", "same content as a.jpg", "matches no other photo", "", "not an image"]
    images = pd.DataFrame({"name": NAMES, "orientation": 1, "status": status, "reason": reason})
    write_table(work / "sfm/images.parquet", images)
    shown = text_of(write_report(work).read_text(encoding="utf-8"))
    # A browser shows an escaped name as it is.
    listed = "file why &lt;b&gt;&amp;odd name.jpg truncated b.jpg same content as a.jpg e.jpg not an image"
    assert f"Every file that was not used {listed} " in shown


def test_a_crop_query_is_shown_as_the_network_saw_it(work):
    files = read_run(work)
    thumbnails = Thumbnails(files.photos)
    row = files.rankings.iloc[0].to_dict()
    crop = thumbnails.query(row)
    assert crop != thumbnails.photo("c.jpg")
    picture = Image.open(io.BytesIO(base64.b64decode(crop.split(",")[1])))
    assert picture.size == (45, 35)
    assert thumbnails.query({**row, "kind": "whole"}) == thumbnails.photo("c.jpg")


def test_tuples_take_turns_between_clusters(work):
    files = read_run(work)
    cluster_of = {ODD: 0, "a.jpg": 0, "b.jpg": 1, "c.jpg": 2}
    rows = tuple_sheet(files.positives, files.tuples, cluster_of, Thumbnails(None), rows=3)
    assert [row.query.name for row in rows] == [ODD, "b.jpg", "c.jpg"]
    assert [cell.name for cell in rows[0].negatives] == ["d.jpg", "c.jpg"]
    alone = tuple_sheet(files.positives, None, cluster_of, Thumbnails(None))
    assert [row.negatives for row in alone] == [()] * 4


def test_a_model_is_set_upright_whatever_its_frame():
    model = ring_model()
    view = upright(model, np.ones(6, dtype=int))
    assert len(view.points) == 80
    np.testing.assert_allclose(view.centres.mean(axis=0), 0, atol=1e-9)
    centres = -np.einsum("nij,ni->nj", model.rotations, model.translations)
    np.testing.assert_allclose(view.rotations[:, 2, 2], 0, atol=1e-9)
    truth = centres[:, [0, 2]]
    cameras = view.centres[:, :2]
    distances = np.linalg.norm(cameras[:, None] - cameras, axis=2)
    np.testing.assert_allclose(distances, np.linalg.norm(truth[:, None] - truth, axis=2), atol=1e-9)
    # Seen from above and not from below: a camera that is further right stays so.
    by_x = np.argsort(centres[:, 0])
    assert (np.diff(cameras[by_x, 0]) > 0).all()
    assert view.rotations[:, 2, 1].min() > 0.5

    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = Model(
        **{
            **{field: getattr(model, field) for field in ("names", "focal_px", "sizes", "place")},
            **{field: getattr(model, field) for field in ("track_image", "track_point", "track_xy")},
            "rotations": model.rotations @ turn.T,
            "translations": model.translations,
            "points": model.points @ turn.T,
        }
    )
    again = upright(moved, np.ones(6, dtype=int))
    np.testing.assert_allclose(again.centres, view.centres, atol=1e-9)
    np.testing.assert_allclose(again.points, view.points, atol=1e-9)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_photos_stored_on_their_side_are_set_upright_too(orientation):
    model = ring_model()
    as_held = upright(model, np.ones(6, dtype=int))
    # Stored axes in upright ones: 3 is upside down, 6 has its top in the first column, 8 in the last.
    axes = {
        3: np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1.0]]),
        6: np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]]),
        8: np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]),
    }[orientation]
    stored = Model(
        **{
            **{field: getattr(model, field) for field in ("names", "focal_px", "sizes", "place", "points")},
            **{field: getattr(model, field) for field in ("track_image", "track_point", "track_xy")},
            "rotations": axes @ model.rotations,
            "translations": model.translations @ axes.T,
        }
    )
    view = upright(stored, np.full(6, orientation))
    np.testing.assert_allclose(view.centres, as_held.centres, atol=1e-9)
