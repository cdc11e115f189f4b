import numpy as np
import pytest

from cnnimretrieval.descriptors import store
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract, read_store
from cnnimretrieval.whitening.apply import apply
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

    monkeypatch.setattr(store, "describe", counted)
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
    assert files == ["done", "images.parquet", "meta.json", "rejected.parquet", "vectors.npy"]


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
    with pytest.raises(ValueError, match=r"expected as many names as vectors, got 2 and 3; extract again$"):
        read_store(out)
    (out / "meta.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"expected files of this version, got ValidationError; extract again$"
    ):
        read_store(out)


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda rows: rows[0], "float32 of shape (512,)"),
        (lambda rows: rows.astype("i4"), "int32 of shape (8, 512)"),
    ],
)
def test_descriptors_are_rows_of_real_numbers(network, requests, tmp_path, spoil, got):
    out = tmp_path / "out"
    rows = np.array(extract(network, requests, tmp_path, out, SMALL).vectors)
    np.save(out / "vectors.npy", spoil(rows))
    with pytest.raises(ValueError, match="extract again") as error:
        read_store(out)
    assert str(error.value) == f"descriptors {out}: expected real vectors (n, d), got {got}; extract again"


def test_a_folder_without_one_of_its_files_or_with_an_empty_one(network, requests, tmp_path):
    out = tmp_path / "out"
    extract(network, requests, tmp_path, out, SMALL)
    (out / "vectors.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected files of this version, got EOFError; extract again$"):
        read_store(out)
    (out / "images.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"without images\.parquet; extract again$"):
        read_store(out)


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
