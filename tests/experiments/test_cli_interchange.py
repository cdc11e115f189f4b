"""Published files and exports, of pairs and of networks, from the command line."""

from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.open import load
from cnnimretrieval.whitening.apply import Whitening
from experiments import cli
from groundwork.files import write_table
from pairs.published_pairs import photo_of
from pairs.retrieval_sfm_files import read_training_pairs
from sfm.pair_table import pair_table

TINY = Path(__file__).parents[1] / "golden" / "pairs" / "train" / "retrieval-SfM-tiny"
PICKLE = TINY / "retrieval-SfM-tiny.pkl"


@pytest.fixture
def data(tmp_path):
    """Photos of the right names; what they show does not matter here."""
    for side in read_training_pairs(PICKLE):
        for number, cid in enumerate(side.cids):
            path = tmp_path / "data" / "ims" / photo_of(cid)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(path, "PNG")
    return tmp_path / "data"


@pytest.mark.parametrize("folder", [".", "ims"])
def test_a_published_file_is_mined_and_exported(data, tmp_path, capsys, folder):
    pairs, out = str(tmp_path / "pairs"), str(tmp_path / "out")
    assert cli.main(["mine", str(PICKLE), "--photos", str(data / folder), "--out", pairs]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "25 positives of 21 queries, 14 clusters, 14 places",
        f"{pairs}/positives.parquet",
    ]
    assert cli.main(["export", pairs, "--out", out, "--name", "mine"]) == 0
    assert capsys.readouterr().out == f"{out}/mine.pkl\n"
    assert Path(out, "mine-whiten.pkl").is_file()


def test_a_name_that_leads_out_of_the_folder_is_refused(model, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    for source, target in ((tmp_path / "pairs", out), (model, out / "x.pth")):
        source.mkdir(exist_ok=True)
        assert cli.main(["export", str(source), "--out", str(target), "--name", "../x"]) == 2
        assert capsys.readouterr().err.splitlines() == [
            "cnnimretrieval: --name: expected a name for files, got '../x'; take letters and digits"
        ]
    assert not (tmp_path / "a").exists()


def test_photos_and_a_published_file_belong_together(data, tmp_path, capsys):
    out = ["--out", str(tmp_path / "pairs")]
    assert cli.main(["mine", str(PICKLE), *out]) == 2
    assert cli.main(["mine", str(data), "--photos", str(data), *out]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cnnimretrieval: --photos: expected the folder of the photos of retrieval-SfM-tiny.pkl, got none; "
        "give it",
        "cnnimretrieval: --photos: expected it with a .pkl only, got a folder; leave it out",
    ]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def model(tmp_path):
    """A network's folder with both whitenings."""
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    network.whitening, network.multi_scale_whitening = _whitening(7), _whitening(8)
    save(network, tmp_path / "model")
    return tmp_path / "model"


def _whitening(seed):
    rng = np.random.default_rng(seed)
    return Whitening(
        mean=0.01 * rng.normal(size=512), projection=rng.normal(size=(9, 512)), kind="learned", note=""
    )


def _extracted(model, photos, out, *options):
    words = ["extract", model, photos, "--out", out, "--image-size", 64, "--workers", 1, "--device", "cpu"]
    assert cli.main([str(word) for word in (*words, *options)]) == 0
    return np.load(out / "vectors.npy")


@pytest.mark.parametrize("scales", ["1", "1,0.7"])
def test_a_network_goes_to_the_reference_format_and_serves_as_model(model, photos, tmp_path, capsys, scales):
    checkpoint = tmp_path / "there" / "network.pth.tar"
    assert cli.main(["export", str(model), "--out", str(checkpoint)]) == 0
    assert capsys.readouterr().out == f"{checkpoint}\n"
    assert list(torch.load(checkpoint, weights_only=False)["meta"]["Lw"]) == ["mined"]
    before = _extracted(model, photos, tmp_path / "a", "--scales", scales)
    after = _extracted(checkpoint, photos, tmp_path / "b", "--scales", scales)
    np.testing.assert_array_equal(after, before)
    assert before.shape == (2, 9)


def test_one_of_a_checkpoints_whitenings_is_chosen(model, photos, tmp_path, capsys):
    checkpoint, chosen = tmp_path / "network.pth", tmp_path / "chosen.pth"
    assert cli.main(["export", str(model), "--out", str(checkpoint), "--name", "first"]) == 0
    content = torch.load(checkpoint, weights_only=False)
    other = _whitening(9)
    content["meta"]["Lw"]["second"] = {"ss": {"m": other.mean[:, None], "P": other.projection}}
    torch.save(content, checkpoint)
    assert cli.main(["export", str(checkpoint), "--out", str(chosen), "--whitening-from", "second"]) == 0
    np.testing.assert_array_equal(load(chosen).whitening.projection, other.projection)
    second = _extracted(checkpoint, photos, tmp_path / "b", "--whitening-from", "second")
    np.testing.assert_array_equal(second, _extracted(chosen, photos, tmp_path / "c"))
    assert np.abs(second - _extracted(checkpoint, photos, tmp_path / "a")).max() > 0.01
    query, wrong = str(photos / "0.png"), ["--whitening-from", "third"]
    search = ["search", str(checkpoint), str(tmp_path / "b"), query, "--workers", "1", "--device", "cpu"]
    assert cli.main([*search, "--whitening-from", "second"]) == 0
    capsys.readouterr()
    assert cli.main(search) == 1
    assert cli.main([*search, *wrong]) == 2
    assert cli.main(["extract", str(model), str(photos), "--out", str(tmp_path / "d"), *wrong]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"cnnimretrieval: network {checkpoint}: expected a whitening from third, got those from first, "
        "second; choose one of them",
        f"cnnimretrieval: network {model}: expected a checkpoint to choose a whitening of, got third for "
        "another network; leave it out",
    ]


def test_a_network_is_written_to_a_checkpoint_only(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export", str(model), "--out", str(out)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cnnimretrieval: --out: expected a file ending in .pth or .pth.tar for a network, "
        f"got {out}; give one"
    ]


def test_a_match_graph_becomes_graphml_whatever_its_photos_are_called(tmp_path, capsys):
    sfm, out = tmp_path / "sfm", tmp_path / "graph.graphml"
    names = ["a \x1b[1m\n.jpg", "b & c.jpg", "lone <>.jpg"]
    ends = pair_table(
        np.array([[1, 2]]), origin=["vlad"], geometry_kind=[2], inliers=[31], block=[0], row=[0]
    )
    write_table(sfm / "graph.parquet", ends.assign(place=0))
    write_table(sfm / "parts.parquet", pd.DataFrame({"place": [], "part": [], "image_id": []}, dtype="int64"))
    write_table(
        sfm / "collection.parquet", pd.DataFrame({"name": [*names, "text"], "image_id": [1, 2, 3, 0]})
    )
    fates = pd.DataFrame({"name": [*names, "text"], "place": [0, 0, -1, -1], "model": [0, -1, -1, -1]})
    write_table(sfm / "images.parquet", fates)
    assert cli.main(["export", str(sfm), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    graph = nx.read_graphml(out)
    assert dict(graph.nodes(data="place")) == {"a \\x1b[1m\\n.jpg": 0, "b & c.jpg": 0, "lone <>.jpg": -1}
    ((*_, edge),) = graph.edges(data=True)
    assert edge == {"weight": 31, "geometry_kind": "calibrated", "origin": "vlad"}
    assert cli.main(["export", str(sfm), "--out", str(tmp_path / "graph.txt")]) == 2
    assert "--out: expected a file ending in .graphml for a match graph" in capsys.readouterr().err


def test_a_network_becomes_a_folder_for_hubs_and_serves_as_model(model, photos, tmp_path, capsys):
    hub = tmp_path / "hub"
    assert cli.main(["export", str(model), "--to", "huggingface", "--out", str(hub)]) == 0
    assert capsys.readouterr().out == f"{hub}\n"
    before = _extracted(model, photos, tmp_path / "a", "--scales", "1,0.7")
    np.testing.assert_array_equal(_extracted(hub, photos, tmp_path / "b", "--scales", "1,0.7"), before)
    card = (hub / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "cnnimretrieval"\n')
    assert "\n# Image retrieval with squeezenet1_1, gem\n" in card
    assert "It was not scored where it comes from." in card


@pytest.mark.parametrize(("to", "ending"), [("onnx", ".onnx"), ("torch", ".pt2")])
def test_a_network_as_one_file_is_called_by_its_format(model, tmp_path, capsys, to, ending):
    out = tmp_path / "net.txt"
    assert cli.main(["export", str(model), "--to", to, "--out", str(out)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"cnnimretrieval: --out: expected a file ending in {ending} for a network, got {out}; give one"
    ]


def test_a_network_becomes_a_graph_of_pytorch(model, tmp_path, capsys):
    out = tmp_path / "net.pt2"
    assert cli.main(["export", str(model), "--to", "torch", "--out", str(out)]) == 0
    said, path = capsys.readouterr().out.splitlines()
    assert said.startswith("descriptors of length ")
    assert (path, out.is_file()) == (str(out), True)


def test_descriptors_go_to_hloc(model, photos, tmp_path, capsys):
    _extracted(model, photos, tmp_path / "a")
    folder, out = str(tmp_path / "a"), tmp_path / "hloc"
    capsys.readouterr()
    assert cli.main(["export", folder, "--to", "hloc", "--out", str(out), "--name", "own"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/global-feats-own.h5",
        f"{out}/pairs-own.txt",
    ]
    assert cli.main(["export", folder, "--out", str(out)]) == 2
    assert cli.main(["export", folder, "--out", str(out / "x.onnx"), "--to", "onnx"]) == 2
    assert cli.main(["export", str(tmp_path / "none"), "--out", str(out), "--to", "hloc"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"cnnimretrieval: --to: expected hloc for the descriptors in {folder}, got none; add --to hloc",
        f"cnnimretrieval: --to: expected a network for onnx, got descriptors in {folder}; give a MODEL or "
        "leave it out",
        f"cnnimretrieval: DIR: expected a folder, got {tmp_path}/none, which does not exist; extract the "
        "photos first",
    ]
