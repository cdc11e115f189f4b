import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.local import extract as module
from cnnimretrieval.local.extract import extract_local
from cnnimretrieval.local.hloc_files import export_local_hloc
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.local.store import read_local
from cnnimretrieval.networks.local_head import LocalConfig
from cnnimretrieval.networks.network import NetworkConfig, build
from experiments.cli import main

CONFIG = PyramidConfig(image_size=80, number=9, scales=(0.5, 1.0, 2.0))


@pytest.fixture(scope="module")
def network():
    return build(NetworkConfig(backbone="squeezenet1_1", local=LocalConfig()), "random", seed=3)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    random = np.random.default_rng(4)
    for name in ("b.png", "sub/a.png", "c.png"):
        Image.fromarray(random.integers(0, 256, (60, 90, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


def requests_of(photos):
    names = ("b.png", "broken.png", "c.png", "sub/a.png")
    boxed = ImageRequest(path=photos / "c.png", box=(10.0, 5.0, 80.0, 50.0))
    return [*(ImageRequest(path=photos / name) for name in names), boxed]


def extracted(network, photos, out):
    requests = requests_of(photos)
    extract(network, requests, photos, out, ExtractConfig(image_size=80))
    return extract_local(network, requests, photos, out, CONFIG)


def equal(a, b):
    exact = all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("keypoints", "scales", "scores")
    )
    return exact and np.allclose(a.descriptors, b.descriptors, atol=1e-3)


def test_features_lie_beside_the_descriptors_of_the_same_photos(network, photos, tmp_path):
    store = extracted(network, photos, tmp_path / "out")
    assert store.names == ("b.png", "c.png", "sub/a.png", "c.png")
    used = [request for request in requests_of(photos) if request.path.name != "broken.png"]
    found = describe_locally(network, used, CONFIG)
    for row, (features, reason) in enumerate(found):
        assert not reason
        assert len(features) == 9
        assert equal(store.at(row), features)
    assert equal(store.features("c.png"), store.at(1))
    assert (store.at(3).keypoints > (10, 5)).all()
    assert store.meta.settings["number"] == 9
    store.require_maker(network.fingerprint())


def test_a_second_call_does_nothing_and_an_interrupted_one_goes_on(network, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD", 2)
    out, made = tmp_path / "out", []
    plain = module.describe_locally

    def counted(network, requests, *rest, **more):
        made.append(len(requests))
        if len(made) == 2:
            raise KeyboardInterrupt
        return plain(network, requests, *rest, **more)

    monkeypatch.setattr(module, "describe_locally", counted)
    with pytest.raises(KeyboardInterrupt):
        extracted(network, photos, out)
    with pytest.raises(FileNotFoundError):
        read_local(out)
    store = extracted(network, photos, out)
    assert made == [2, 2, 2]
    assert extracted(network, photos, out).names == store.names
    assert made == [2, 2, 2]
    other = CONFIG.model_copy(update={"number": 3})
    assert len(extract_local(network, requests_of(photos), photos, out, other).at(0)) == 3
    assert made == [2, 2, 2, 2, 2]


def test_a_photo_that_is_gone_has_no_features_and_a_reason(network, photos, tmp_path):
    requests = requests_of(photos)
    extract(network, requests, photos, tmp_path / "out", ExtractConfig(image_size=80))
    (photos / "b.png").unlink()
    store = extract_local(network, requests, photos, tmp_path / "out", CONFIG)
    assert len(store.features("b.png")) == 0
    assert store.images["reason"].tolist() == ["cannot be read: No such file or directory", "", "", ""]
    assert len(store.features("c.png")) == 9


def test_hloc_file_has_its_layout(network, photos, tmp_path):
    h5py = pytest.importorskip("h5py")
    store = extracted(network, photos, tmp_path / "out")
    path = export_local_hloc(tmp_path / "out", tmp_path / "hloc", "mine")
    assert path.name == "feats-mine.h5"
    with h5py.File(path) as file:
        group = file["sub/a.png"]
        features = store.features("sub/a.png")
        assert np.array_equal(group["keypoints"][:] + 0.5, features.keypoints)
        assert np.array_equal(group["descriptors"][:], features.descriptors.T)
        assert np.array_equal(group["scores"][:], features.scores)
        assert group["image_size"][:].tolist() == [90, 60]
        assert sorted(file) == ["b.png", "c.png", "sub"]


def test_a_part_that_is_listed_before_its_photo_does_not_hide_it_from_hloc(network, photos, tmp_path):
    h5py = pytest.importorskip("h5py")
    whole = ImageRequest(path=photos / "c.png")
    requests = [ImageRequest(path=whole.path, box=(10.0, 5.0, 80.0, 50.0)), whole]
    extract(network, requests, photos, tmp_path / "out", ExtractConfig(image_size=80))
    extract_local(network, requests, photos, tmp_path / "out", CONFIG)
    with h5py.File(export_local_hloc(tmp_path / "out", tmp_path / "hloc", "mine")) as file:
        assert list(file) == ["c.png"]


def test_command_writes_local_features_and_tells_what_it_needs(photos, tmp_path, capsys):
    from cnnimretrieval.networks.model_folder import save

    headed = build(NetworkConfig(backbone="squeezenet1_1", local=LocalConfig()), "random", seed=3)
    save(headed, tmp_path / "model")
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3), tmp_path / "plain")
    given = [str(photos), "--out", str(tmp_path / "out"), "--image-size", "80", "--workers", "1"]
    small = ["--local-set", "number=5", "--local-set", "image_size=80"]
    assert main(["extract", str(tmp_path / "model"), *given, "--local", *small]) == 0
    assert "15 local features of length 128" in capsys.readouterr().out
    assert len(read_local(tmp_path / "out").features("c.png")) == 5
    for arguments, message in (
        (["plain", *given, "--local"], "expected one with a local head, got squeezenet1_1:gem without"),
        (
            ["model", *given, "--local", "--local-set", "numbr=5"],
            "unknown key 'numbr'; did you mean 'number'?",
        ),
        (["model", *given, "--local", "--local-set", "number=0"], "--local-set number=0"),
        (["model", *given, "--local-set", "number=5"], "expected it with --local, got number=5 alone"),
        (["model", *given, "--local", "--local-set", "number"], "expected key=value, got 'number'; write it"),
    ):
        assert main(["extract", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert message in lines[-1]
