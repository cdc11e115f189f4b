import json

import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.descriptors import parts
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract, read_store
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.whitening.apply import Whitening, apply
from cnnimretrieval.whitening.estimates import pca_whitening

SMALL = ExtractConfig(image_size=72)


@pytest.fixture
def requests(photos):
    boxed = ImageRequest(path=photos[3], box=(8.0, 4.0, 72.0, 60.0))
    return [*(ImageRequest(path=path) for path in photos), boxed]


@pytest.fixture
def calls(monkeypatch):
    """How often photos were described."""
    made = []

    def counted(*arguments, **options):
        made.append(arguments)
        return describe(*arguments, **options)

    monkeypatch.setattr(parts, "describe", counted)
    return made


def test_a_folder_holds_names_boxes_and_vectors_in_the_order_of_requests(network, requests, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    listed = [requests[0], ImageRequest(path=tmp_path / "bad.png"), *requests[1:]]
    extract(network, listed, tmp_path, tmp_path / "out", SMALL)
    found = read_store(tmp_path / "out")
    np.testing.assert_array_equal(found.vectors, describe(network, requests, SMALL).vectors)
    assert found.images["name"].tolist() == [request.path.name for request in requests]
    assert found.images.loc[7, ["x1", "y1", "x2", "y2"]].tolist() == [8.0, 4.0, 72.0, 60.0]
    assert found.images.loc[:6, "x1"].isna().all()
    assert found.rejected["name"].tolist() == ["bad.png"]
    assert found.rejected["reason"].tolist() == ["not an image"]
    assert (found.meta.described, found.meta.rejected, found.meta.whitening) == (8, 1, None)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [
        *("contents.parquet", "done", "images.parquet", "meta.json", "rejected.parquet", "vectors.npy")
    ]


def test_the_whitening_of_the_network_is_applied_unless_it_is_switched_off(network, requests, tmp_path):
    plain = describe(network, requests, SMALL).vectors
    network.whitening = pca_whitening(plain, dim=4)
    whitened = extract(network, requests, tmp_path, tmp_path / "out", SMALL)
    np.testing.assert_allclose(whitened.vectors, apply(network.whitening, plain), rtol=0, atol=1e-6)
    assert whitened.vectors.shape == (8, 4)
    assert whitened.meta.whitening == network.whitening.note
    again = extract(network, requests, tmp_path, tmp_path / "out", SMALL, whiten=False)
    np.testing.assert_array_equal(again.vectors, plain)
    assert not (tmp_path / "out" / "unwhitened.npy").exists()


def test_what_is_there_is_kept_until_photos_config_or_network_change(network, requests, tmp_path, calls):
    def run(config=SMALL, which=requests):
        extract(network, which, tmp_path, tmp_path / "out", config)
        return len(calls)

    assert (run(), run()) == (1, 1)
    assert run(which=requests[:4]) == 2
    assert run(which=requests[:4], config=ExtractConfig(image_size=64)) == 3
    network.pool.p.data.add_(0.1)
    assert run(which=requests[:4], config=ExtractConfig(image_size=64)) == 4
    requests[0].path.write_bytes(requests[1].path.read_bytes())
    assert run(which=requests[:4], config=ExtractConfig(image_size=64)) == 5


def test_descriptors_know_the_network_that_made_them(network, requests, tmp_path):
    found = extract(network, requests[:3], tmp_path, tmp_path / "out", SMALL)
    found.require_network(network)
    network.whitening = pca_whitening(found.vectors)
    found.require_network(network)
    whitened = extract(network, requests[:3], tmp_path, tmp_path / "white", SMALL)
    whitened.require_network(network)
    network.whitening = None
    for change in (0.0, 0.1):
        network.pool.p.data.add_(change)
        with pytest.raises(
            ValueError, match=r"^descriptors: expected the network that made them \(squeezenet1_1:gem, "
        ):
            whitened.require_network(network)


def test_folders_that_hold_no_descriptors_are_named(network, requests, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"extracted to its end, got .*none without meta\.json; extract again$"
    ):
        read_store(tmp_path / "none")
    out = tmp_path / "out"
    extract(network, requests[:2], tmp_path, out, SMALL)
    np.save(out / "vectors.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="vectors") as error:
        read_store(out)
    assert str(error.value) == (
        f"{out}/vectors.npy: expected the file that extract left, got it damaged, or changed since; "
        "extract the photos again"
    )


@pytest.fixture
def extracted(network, requests, tmp_path):
    """A whole folder, without the record of what its files were: each file has to speak for itself."""
    extract(network, requests, tmp_path, tmp_path / "out", SMALL)
    (tmp_path / "out" / "done" / "extract.json").unlink()
    return tmp_path / "out"


def _told(folder):
    with pytest.raises(ValueError, match="descriptors") as error:
        read_store(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"version": 2}, "expected version 1, got 2; extract the photos again"),
        ({"version": "1"}, "expected version 1, got '1'; extract the photos again"),
        ({"version": None}, "expected version 1, got None; extract the photos again"),
        ({"more": 1}, "expected what extract wrote, got the unknown key 'more'; extract again"),
        ({"described": "many"}, "expected what extract wrote, got 'described' = 'many': Input should be"),
        (
            {"network_config": {"backbone": "resnet19"}},
            "got 'network_config.backbone' = 'resnet19': backbone: ",
        ),
        ({"extraction": {"scales": []}}, "expected what extract wrote, got 'extraction.scales' = []: Tuple"),
    ],
)
def test_what_says_how_descriptors_were_made_is_checked(extracted, change, got):
    path = extracted / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert _told(extracted).startswith(f"descriptors {path}: ")
    assert got in _told(extracted)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ud800", "[" * 100_000])
def test_what_says_how_descriptors_were_made_may_be_damaged(extracted, text):
    (extracted / "meta.json").write_text(text, errors="surrogatepass")
    assert f"{extracted}/meta.json: expected " in _told(extracted)


def test_numbers_of_rows_are_those_that_were_described(extracted):
    path = extracted / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"described": 9}))
    assert "expected 9 descriptors and 0 rejected photos as in meta.json, got 8 and 0; " in _told(extracted)


def test_boxes_and_photos_listed_twice_are_rows_like_any_other(network, requests, tmp_path):
    listed = [requests[7], requests[3], requests[3]]
    extract(network, listed, tmp_path, tmp_path / "out", SMALL)
    found = read_store(tmp_path / "out")
    assert found.images["name"].tolist() == ["photo 3.png"] * 3
    assert found.images["x1"].isna().tolist() == [False, True, True]


def test_names_that_changed_places_are_noticed(network, requests, tmp_path):
    out = tmp_path / "out"
    extract(network, requests, tmp_path, out, SMALL)
    images = pd.read_parquet(out / "images.parquet")
    images.loc[[0, 1], "name"] = images.loc[[1, 0], "name"].to_numpy()
    images.to_parquet(out / "images.parquet", index=False)
    with pytest.raises(
        ValueError, match=r"images\.parquet: expected the file that extract left, got it damaged"
    ):
        read_store(out)


def _blind_to_squares(value):
    """A hook of a trunk that sees `value` times what there is in square pictures."""

    def hook(_, inputs, output):
        height, width = inputs[0].shape[2:]
        return output * value if height == width else output

    return hook


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_photo_in_which_the_network_sees_nothing_costs_itself_only(requests, tmp_path, value):
    network = build(NetworkConfig(backbone="squeezenet1_1", pooling="spoc"), "random", seed=3)
    seen = np.array(extract(network, requests, tmp_path, tmp_path / "seen", SMALL).vectors)
    hook = network.trunk.register_forward_hook(_blind_to_squares(value))
    found = extract(network, requests, tmp_path, tmp_path / "out", SMALL)
    np.testing.assert_allclose(found.vectors, np.delete(seen, 5, axis=0), rtol=0, atol=1e-6)
    assert found.images["name"].tolist() == [requests[row].path.name for row in (0, 1, 2, 3, 4, 6, 7)]
    assert found.rejected["name"].tolist() == ["photo 5.png"]
    assert found.rejected.loc[0, "reason"] == "the network sees nothing in it"
    with pytest.raises(ValueError, match="readable photo") as error:
        extract(network, requests[5:6], tmp_path, tmp_path / "none", SMALL)
    assert str(error.value) == (
        "extract: expected at least one readable photo, got 1 files (1 the network sees nothing in it); "
        "check the path"
    )
    assert list((tmp_path / "none").iterdir()) == []
    hook.remove()


def test_a_descriptor_that_whitening_takes_everything_from_is_rejected(network, requests, tmp_path):
    plain = np.array(extract(network, requests, tmp_path, tmp_path / "plain", SMALL).vectors)
    network.whitening = Whitening(
        mean=plain[2].astype(np.float64), projection=np.eye(3, 512), kind="pca", note="n"
    )
    found = extract(network, requests, tmp_path, tmp_path / "out", SMALL)
    expected = apply(network.whitening, np.delete(plain, 2, axis=0))
    np.testing.assert_allclose(found.vectors, expected, rtol=0, atol=1e-4)
    assert found.rejected["name"].tolist() == ["photo 2.png"]
    with pytest.raises(ValueError, match="readable photo") as error:
        extract(network, requests[2:3], tmp_path, tmp_path / "none", SMALL)
    assert str(error.value) == (
        "extract: expected at least one readable photo, got 1 files (1 the network sees nothing in it); "
        "check the path"
    )
    assert list((tmp_path / "none").iterdir()) == []


def test_nothing_readable_is_an_error(network, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(
        ValueError,
        match=r"^extract: expected at least one readable photo, got 1 files \(1 not an image\); check the",
    ):
        extract(network, [ImageRequest(path=tmp_path / "bad.png")], tmp_path, tmp_path / "out", SMALL)
    assert list((tmp_path / "out").iterdir()) == []
    turned = ImageRequest(path=tmp_path / "bad.png", rotation_deg=3.0)
    with pytest.raises(ValueError, match="expected photos and boxes, got edited or rotated ones"):
        extract(network, [turned], tmp_path, tmp_path / "out", SMALL)
