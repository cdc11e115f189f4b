"""The benchmarks of local search on a tiny finished run whose network has a local head."""

import re

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from experiments.benchmarks import aggregated, spatial_gain
from experiments.benchmarks.material.finished import finished
from groundwork.files import write_json
from pairs.heldout import HeldoutQuery, write_heldout
from pairs.image_pairs import Positives
from pairs.pair_table import PairTable, write_pair_table

pytest.importorskip("cv2")
SIZE = (300, 220)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Three places of three views, the last two of them held out, and a network with a local head."""
    photos, folder = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("work")
    names = []
    for place in range(3):
        levels = np.random.default_rng(place).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        whole = Image.fromarray(levels).resize((360, 270), Image.Resampling.BICUBIC)
        for view in range(3):
            names.append(f"{place}-{view}.png")
            x, y = 20 * view, 15 * view
            whole.crop((x, y, x + SIZE[0], y + SIZE[1])).save(photos / names[-1])
    place = np.repeat(np.arange(3), 3)
    same = (place[:, None] == place) & ~np.eye(9, dtype=bool)
    query, positive = np.nonzero(same)
    ones = np.ones(len(query))
    table = PairTable(
        names=tuple(names),
        cluster=place,
        place=place,
        is_val=place > 0,
        is_choosing=np.zeros(9, np.bool_),
        sizes=np.full((9, 2), SIZE),
        orientation=np.ones(9, np.int64),
        positives=Positives(
            query=query,
            positive=positive,
            shared_points=np.full(len(query), 30),
            overlap=ones,
            scale_change=ones,
            angle_deg=ones,
            strategy=np.full(len(query), "m3"),
            weight=ones,
        ),
    )
    write_pair_table(table, folder / "pairs")
    queries = [
        HeldoutQuery(
            query=names[row],
            kind=kind,
            purpose="report",
            box=(60, 40, 260, 190),
            rotation_deg=0.0,
            seed=row,
            positives=tuple(names[other] for other in np.flatnonzero(same[row])),
            far=(),
            place=int(place[row]),
        )
        for row in (3, 6)
        for kind in ("crop", "retaken")
    ]
    write_heldout(queries, folder / "pairs" / "heldout.parquet")
    write_json(folder / "pairs" / "photos.json", {"version": 1, "photos": str(photos), "content": "it"})
    head = LocalConfig(reduction="whitening", attention="norm", dim=16)
    config = NetworkConfig(backbone="squeezenet1_1", local=head, image_size=256)
    save(build(config, "random", seed=3), folder / "model")
    return folder


def test_a_run_is_searched_as_a_whole_or_without_what_it_was_fitted_to(work):
    whole, unseen = finished(work, 1), finished(work, 1, unseen=True)
    assert (len(whole.names), len(unseen.names)) == (9, 6)
    assert unseen.names[0] == "1-0.png"
    np.testing.assert_array_equal(unseen.database, whole.database[3:])
    asked = unseen.asked("crop", 1)
    (first, _) = asked.benchmark.protocols["tracks"]
    assert [unseen.names[row] for row in first.positives] == ["1-1.png", "1-2.png"]
    assert [unseen.names[row] for row in first.junk] == ["1-0.png"]
    assert asked.mean_over_places(np.array([0.2, 0.6])) == pytest.approx(0.4)
    assert len(unseen.asked("crop", 2).requests) == 1


def test_re_ranking_by_sift_finds_what_overlaps(work, tmp_path, capsys):
    words = [str(work), "--out", str(tmp_path), "--setting", "spatial:features=sift", "--unseen"]
    assert spatial_gain.main(words) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    (found,) = (line for line in lines if line.startswith("crop, spatial"))
    assert "tracks 1.0000" in found
    assert len([line for line in lines if line.startswith("retaken")]) == 2


def test_aggregated_search_is_compared_with_verifying_everything(work, tmp_path, capsys):
    words = [str(work), "--out", str(tmp_path), "--words", "30", "--unseen"]
    scales = ["--local-set", "scales=[1.0]", "--local-set", "number=60"]
    assert aggregated.main([*words, *scales]) in (0, 1)
    shown = capsys.readouterr().out
    for way in ("global descriptor", "global, 100 verified", "aggregated, 100 verified", "every photo"):
        assert way in shown
    # 16 numbers of 2 bytes, and position, scale and score of 4: 48 bytes for each of 60 features.
    assert re.search(r"of the index, 2,880 of the local features, 2,048 of the global", shown)


def test_a_run_without_a_local_head_is_told(work, tmp_path, capsys):
    for part in ("pairs", "model"):
        (tmp_path / part).mkdir()
    for path in (work / "pairs").iterdir():
        (tmp_path / "pairs" / path.name).symlink_to(path)
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random"), tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        aggregated.main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            "error: network: expected one with a local head, got squeezenet1_1:gem without; "
            "train one with train.network.local.reduction set"
        )
    )
