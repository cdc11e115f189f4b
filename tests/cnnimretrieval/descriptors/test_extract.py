import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig, describe, describe_batch
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.passes import described, in_batches
from cnnimretrieval.descriptors.tensors import normalise, to_levels
from cnnimretrieval.networks.network import NetworkConfig, build
from groundwork.photos import load_rgb

SMALL = ExtractConfig(image_size=72, batch_size=3)


def _requests(photos):
    return [ImageRequest(path=path) for path in photos]


def _one_by_one(network, photos, image_size=72):
    rows = []
    for path in photos:
        image = load_rgb(path).image
        image.thumbnail((image_size, image_size), Image.Resampling.LANCZOS)
        with torch.inference_mode():
            rows.append(
                network(normalise(to_levels(image), network.trunk.mean, network.trunk.std)[None])[0].numpy()
            )
    return np.stack(rows)


def test_rows_follow_the_requests_however_sizes_are_batched(network, photos):
    expected = _one_by_one(network, photos)
    for batch_size in (1, 2, 3, 100):
        described = describe(network, _requests(photos), SMALL.model_copy(update={"batch_size": batch_size}))
        np.testing.assert_allclose(described.require_all(), expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(described.positions, np.arange(len(photos)))
    # The photos differ enough for a wrong order to show.
    gram = expected @ expected.T - np.eye(len(expected))
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    assert gram.max() < 1.0


def test_neither_workers_nor_threads_nor_other_photos_change_a_byte(network, photos):
    config = ExtractConfig(image_size=96, scales=(1.0, 0.7))
    requests = _requests(photos * 2)
    expected = np.concatenate([describe(network, [request], config).vectors for request in requests])
    for threads, workers in ((1, 2), (2, 0), (2, 2), (5, 0)):
        torch.set_num_threads(threads)
        found = describe(network, requests, config, workers=workers)
        np.testing.assert_array_equal(found.vectors, expected)
        assert torch.get_num_threads() == threads


def test_batches_of_one_size_keep_rows_and_pictures_together():
    """As on a GPU: the sum of a picture stands for its descriptor."""
    sizes = [(2, 3), (2, 3), (4, 1), (2, 3), (4, 1), (5, 5), (2, 3)]
    pictures = [(row, (torch.full((3, *size), row, dtype=torch.uint8),)) for row, size in enumerate(sizes)]
    for batch_size, threads in itertools.product((1, 2, 3, 100), (False, True)):
        batches = in_batches(pictures, batch_size)
        found = list(described(batches, lambda parts: parts[0].sum(dim=(2, 3))[:, :1], threads=threads))
        assert max(len(rows) for rows, _ in found) <= batch_size
        sums = {row: int(one) for rows, made in found for row, one in zip(rows, made, strict=True)}
        assert sums == {row: row * height * width for row, (height, width) in enumerate(sizes)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_photo_costs_itself_only(network, photos, tmp_path, workers):
    (tmp_path / "bad.jpg").write_text("no image")
    paths = [photos[0], tmp_path / "bad.jpg", *photos[1:4], tmp_path / "none.jpg", *photos[4:]]
    for out in (None, tmp_path / "vectors.npy"):
        described = describe(network, _requests(paths), SMALL, workers=workers, out=out)
        np.testing.assert_array_equal(described.positions, [0, 2, 3, 4, 6, 7, 8])
        np.testing.assert_allclose(described.vectors, _one_by_one(network, photos), rtol=0, atol=1e-6)
        assert [(failure.position, failure.path.name) for failure in described.failures] == [
            (1, "bad.jpg"),
            (5, "none.jpg"),
        ]
        assert [failure.reason for failure in described.failures] == [
            "not an image",
            "cannot be read: No such file or directory",
        ]
        with pytest.raises(OSError, match=r"bad\.jpg: expected an image, .* \(and 1 more\)$"):
            described.require_all()


def test_the_file_of_vectors_is_a_whole_npy_memory_map(network, photos, tmp_path):
    out = tmp_path / "vectors.npy"
    described = describe(network, _requests(photos), SMALL, out=out)
    assert isinstance(described.vectors, np.memmap)
    loaded = np.load(out)
    assert loaded.dtype == np.float32
    assert loaded.shape == (7, 512)
    assert out.stat().st_size == described.vectors.offset + 7 * 512 * 4
    np.testing.assert_array_equal(loaded, describe(network, _requests(photos), SMALL).vectors)


def test_an_interrupted_description_leaves_no_file(network, photos, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    requests = [*_requests(photos), ImageRequest(path=photos[0], edit=interrupt)]
    with pytest.raises(KeyboardInterrupt):
        describe(network, requests, SMALL, out=tmp_path / "out" / "vectors.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_scales_are_joined_by_the_published_power_mean(network):
    levels = torch.randint(
        0, 256, (2, 3, 64, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    images = normalise(levels, network.trunk.mean, network.trunk.std)
    network.pool.p.data.fill_(2.5)
    with torch.inference_mode():
        smaller = torch.nn.functional.interpolate(
            images, scale_factor=0.7, mode="bilinear", align_corners=False
        )
        assert smaller.shape[-2:] == (44, 62)
        rows = torch.stack((network(images), network(smaller)))
    for power, config in ((2.5, {}), (1.0, {"power": 1.0})):
        expected = rows.pow(power).mean(dim=0).pow(1 / power)
        expected = expected / expected.norm(dim=1, keepdim=True)
        found = describe_batch(network, levels, ExtractConfig(scales=(1.0, 0.7), **config))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_bfloat16_is_close_and_float32_out(network, photos):
    exact = describe(network, _requests(photos), SMALL).vectors
    rough = describe(network, _requests(photos), SMALL.model_copy(update={"precision": "bfloat16"})).vectors
    assert rough.dtype == np.float32
    assert 0.0 < np.abs(rough - exact).max() < 0.02


def test_training_modes_are_as_before(network, photos):
    network.train()
    network.trunk.features[3].eval()
    modes = [module.training for module in network.modules()]
    describe(network, _requests(photos[:1]), SMALL)
    assert [module.training for module in network.modules()] == modes
    assert len(set(modes)) == 2


def test_strips_and_tiny_scales_still_give_a_descriptor(network, tmp_path):
    Image.new("RGB", (16, 1), "green").save(tmp_path / "strip.png")
    config = ExtractConfig(image_size=72, scales=(1.0, 0.5, 0.1))
    vectors = describe(network, _requests([tmp_path / "strip.png"]), config).require_all()
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0, abs=1e-5)


def test_a_photo_or_box_smaller_than_the_stride_is_told(network, photos, tmp_path):
    Image.new("RGB", (15, 9), "green").save(tmp_path / "tiny.png")
    requests = [
        ImageRequest(path=tmp_path / "tiny.png"),
        ImageRequest(path=photos[0], box=(3.0, 4.0, 17.0, 18.0)),
        ImageRequest(path=photos[0], box=(90.0, 4.0, 99.0, 18.0)),
        ImageRequest(path=photos[0]),
    ]
    described = describe(network, requests, SMALL)
    assert described.positions.tolist() == [3]
    small = "expected 16 px, the stride of squeezenet1_1, or more along a side"
    reasons = [
        "too small for the network",
        "too small for the network",
        "box (90.0, 4.0, 99.0, 18.0) outside the photo",
    ]
    assert [failure.reason for failure in described.failures] == reasons
    assert [failure.message for failure in described.failures] == [
        f"photo {tmp_path / 'tiny.png'}: {small}, got 15 x 9; give a larger photo or box",
        f"photo {photos[0]}: {small}, got 12 x 12; give a larger photo or box",
        f"box of {photos[0]}: expected at least a pixel of the 80 x 64 photo, got (90.0, 4.0, 99.0, 18.0); "
        "give it in pixels of the full upright photo",
    ]


def test_a_power_is_refused_where_components_are_negative():
    network = build(NetworkConfig(backbone="squeezenet1_1", projection=8), "random")
    torch.nn.init.constant_(network.projection.bias, -1.0)
    levels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    config = ExtractConfig(scales=(1.0, 0.5))
    assert torch.isfinite(describe_batch(network, levels, config)).all()
    with pytest.raises(ValueError, match=r"^power: ") as error:
        describe_batch(network, levels, config.model_copy(update={"power": 2.5}))
    assert str(error.value) == (
        "power: expected 1 for squeezenet1_1:gem, whose descriptors have negative components, got 2.5; "
        "leave it out"
    )


def test_no_request_gives_no_row(network):
    assert describe(network, [], SMALL).vectors.shape == (0, 512)


def test_scales_are_checked():
    with pytest.raises(ValueError, match=r"scales: expected factors from 0.01 to 4, got \(1.0, -0.5\); "):
        ExtractConfig(scales=(1.0, -0.5))
    with pytest.raises(ValueError, match="scales"):
        ExtractConfig(scales=())
