import lzma
import re

import numpy as np
import pytest
import torch

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.descriptors.tensors import to_levels
from cnnimretrieval.networks.linear import set_to_whitening
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.networks.open import load
from cnnimretrieval.networks.reference import read_reference, read_reference_whitening, save_reference
from cnnimretrieval.whitening.apply import Whitening, apply

REMEDY = "give a checkpoint of cnnimageretrieval-pytorch, or another MODEL"


def _whitening(axes, seed, inputs=512):
    rng = np.random.default_rng(seed)
    return Whitening(
        mean=rng.normal(size=inputs), projection=rng.normal(size=(axes, inputs)), kind="learned", note=""
    )


@pytest.fixture(scope="module")
def full():
    """A network with every part that the toolbox knows, none of them trivial, and both whitenings."""
    config = NetworkConfig(
        backbone="squeezenet1_0",
        pooling="gemmp",
        local_whitening=True,
        regional=True,
        region_whitening=True,
        projection=512,
        mean=(0.4, 0.5, 0.6),
        std=(0.1, 0.2, 0.3),
    )
    network = build(config, "random")
    for seed, layer in enumerate((network.local_whitening, network.pool.whitening, network.projection)):
        set_to_whitening(layer, _whitening(512, seed))
    network.exponent.data.copy_(torch.linspace(1.5, 4.0, 512))
    network.whitening, network.multi_scale_whitening = _whitening(30, 7), _whitening(20, 8)
    return network


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
def test_a_network_of_every_part_goes_there_and_back(full, tmp_path, suffix):
    path = tmp_path / f"network{suffix}"
    save_reference(full, path, "retrieval-SfM-30k")
    again = load(path)
    assert again.config == full.config
    assert again.fingerprint() == full.fingerprint()
    for found, expected in (
        (again.whitening, full.whitening),
        (again.multi_scale_whitening, full.multi_scale_whitening),
    ):
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.projection, expected.projection)
    assert again.whitening.note == f"network{suffix}, retrieval-SfM-30k, ss"


def test_the_names_of_parts_are_those_of_the_toolbox(full, tmp_path):
    save_reference(full, tmp_path / "network.pth")
    content = torch.load(tmp_path / "network.pth", weights_only=False)
    names = {key for key in content["state_dict"] if not key.startswith("features.")}
    linear = {
        f"{layer}.{part}" for layer in ("lwhiten", "pool.whiten", "whiten") for part in ("weight", "bias")
    }
    assert names == linear | {"pool.rpool.p"}
    assert "features.0.weight" in content["state_dict"]
    learned = content["meta"].pop("Lw")
    assert learned["cnnimretrieval"]["ms"]["m"].shape == (512, 1)
    assert learned["cnnimretrieval"]["ms"]["P"].shape == (20, 512)
    assert content["meta"] == {
        "architecture": "squeezenet1_0",
        "local_whitening": True,
        "pooling": "gemmp",
        "regional": True,
        "whitening": True,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.1, 0.2, 0.3],
        "outputdim": 512,
    }


def test_what_the_toolbox_cannot_build_is_not_written(tmp_path):
    for options, wrong in (
        ({"backbone": "mobilenet_v2"}, r"a backbone that the toolbox has \(alexnet, .*\), got mobilenet_v2"),
        ({"regional": True}, "regions with a whitening, got regions without one"),
        ({"projection": 30}, "a projection that keeps 512 dimensions, got 30"),
    ):
        network = build(NetworkConfig(**{"backbone": "squeezenet1_1", **options}), "random")
        line = rf"^network to write for the toolbox: expected {wrong}; keep it in our own format$"
        with pytest.raises(ValueError, match=line):
            save_reference(network, tmp_path / "network.pth")
    assert not (tmp_path / "network.pth").exists()


def _checkpoint(network):
    """The content of a checkpoint, to be spoilt."""
    state = {key.removeprefix("trunk."): value for key, value in network.state_dict().items()}
    return {"epoch": 3, "meta": {"architecture": "squeezenet1_1", "pooling": "gem"}, "state_dict": state}


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_meta_leaves_out_has_the_usual_value(network, tmp_path, is_zip):
    content = _checkpoint(network)
    torch.save(content, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=is_zip)
    again = read_reference(tmp_path / "model.pth.tar")
    assert again.config == network.config
    assert again.fingerprint() == network.fingerprint()
    assert again.whitening is None


def test_checkpoints_older_than_the_count_of_batches_load(tmp_path):
    resnet = build(NetworkConfig(backbone="resnet18"), "random")
    content = _checkpoint(resnet)
    content["meta"]["architecture"] = "resnet18"
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "num_batches" not in k}
    torch.save(content, tmp_path / "old.pth")
    assert load(tmp_path / "old.pth").fingerprint() == resnet.fingerprint()


def _without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda c: _without(c, "meta"), "expected 'meta' in a checkpoint, got epoch, state_dict"),
        (lambda c: _without(c, "state_dict"), "expected 'state_dict' in a checkpoint, got epoch, meta"),
        (lambda c: [c], "expected a checkpoint, got a list"),
        (lambda c: c | {"meta": {"pooling": "gem"}}, "expected 'architecture' in meta, got none"),
        (
            lambda c: c | {"meta": {"architecture": "resnet18", "pooling": "max"}},
            "expected as pooling mac, spoc, gem, gemmp, rmac, got 'max'",
        ),
        (
            lambda c: c | {"meta": {"architecture": "resnet18", "pooling": "gem"}},
            "expected the keys of resnet18:gem, got no 'trunk.features.0.weight'",
        ),
        (
            lambda c: c | {"state_dict": _without(c["state_dict"], "pool.p")},
            "expected the keys of squeezenet1_1:gem, got no 'pool.p'",
        ),
        (
            lambda c: c | {"state_dict": c["state_dict"] | {"pool.q": torch.ones(1)}},
            "expected the keys of squeezenet1_1:gem, got 'pool.q' too",
        ),
        (
            lambda c: c | {"state_dict": c["state_dict"] | {"pool.p": torch.ones(2)}},
            "expected 'pool.p' of shape (1,) for squeezenet1_1:gem, got (2,)",
        ),
        (
            lambda c: c | {"meta": c["meta"] | {"whitening": True}},
            "expected 'whiten.weight' if and only if meta['whitening'], got True and none",
        ),
        (
            lambda c: c | {"meta": c["meta"] | {"mean": [0.5, 0.5]}},
            "expected three numbers as meta['mean'], got [0.5, 0.5]",
        ),
        (
            lambda c: c | {"meta": c["meta"] | {"std": (0.2, 0.0, 0.2)}},
            "expected three numbers above 0 as meta['std'], got (0.2, 0.0, 0.2)",
        ),
        (
            lambda c: c | {"state_dict": c["state_dict"] | {"pool.p": "three"}},
            "expected named tensors, got a str as 'pool.p'",
        ),
        (
            lambda c: c | {"state_dict": c["state_dict"] | {3: torch.ones(1)}},
            "expected named tensors, got a Tensor as 3",
        ),
        (
            lambda c: c | {"state_dict": c["state_dict"] | {"pool.p": torch.tensor([torch.nan])}},
            "expected finite numbers as 'pool.p', got nan at [0]",
        ),
        (
            lambda c: c | {"meta": c["meta"] | {"Lw": [1]}},
            "expected whitenings by data set and scales as meta['Lw'], got list",
        ),
        (
            lambda c: c | {"meta": c["meta"] | {"Lw": {"mine": 1}}},
            "expected whitenings by data set and scales as meta['Lw']['mine'], got int",
        ),
    ],
)
def test_spoilt_checkpoints_are_told_in_one_line(network, tmp_path, spoil, problem):
    path = tmp_path / "spoilt.pth"
    torch.save(spoil(_checkpoint(network)), path)
    with pytest.raises(ValueError, match=r"^network ") as error:
        load(path)
    line = str(error.value)
    if "resnet18:gem" in problem:
        assert line.startswith(f"network {path}: expected ")
        assert line.endswith(REMEDY)
    else:
        assert line == f"network {path}: {problem}; {REMEDY}"


def test_an_unknown_architecture_is_told_with_those_that_are_known(network, tmp_path):
    content = _checkpoint(network)
    content["meta"]["architecture"] = "resnet999"
    torch.save(content, tmp_path / "new.pth")
    with pytest.raises(
        ValueError, match=r"new\.pth: expected as architecture alexnet, vgg11, .*, got 'resnet999'; give a ch"
    ):
        load(tmp_path / "new.pth")


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(network, tmp_path, capsys):
    torch.save({**_checkpoint(network), "epoch": _Payload()}, tmp_path / "bad.pth")
    (tmp_path / "cut.pth").write_bytes(b"cut")
    (tmp_path / "text.pth").write_text("hello world")
    for name, got in (
        ("text.pth", "one that is damaged or of another kind"),
        ("bad.pth", "one that holds print, which is not loaded"),
        ("cut.pth", "one that is damaged or of another kind"),
    ):
        with pytest.raises(ValueError, match=r"^network ") as error:
            load(tmp_path / name)
        assert str(error.value) == f"network {tmp_path / name}: expected a checkpoint, got {got}; {REMEDY}"
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError, match=r"^network: expected a checkpoint, got .*, which is none; "):
        read_reference(tmp_path / "none.pth")


def test_whitenings_of_several_data_sets_are_told_apart(network, tmp_path):
    path = tmp_path / "network.pth"
    content = _checkpoint(network)
    content["meta"]["Lw"] = {
        name: {"ss": {"m": np.zeros((512, 1), np.float32), "P": np.eye(axes, 512)}}
        for name, axes in (("google", 5), ("retrieval-SfM-120k", 6), ("retrieval-SfM-30k", 7))
    }
    torch.save(content, path)
    assert read_reference(path).whitening.dim == 6
    assert read_reference(path, "google").whitening.dim == 5
    with pytest.raises(ValueError, match=r"^network ") as error:
        read_reference(path, "mine")
    assert str(error.value) == (
        f"network {path}: expected a whitening from mine, got those from retrieval-SfM-120k, google, "
        "retrieval-SfM-30k; choose one of them"
    )


def test_whitenings_that_the_toolbox_left_beside_a_checkpoint_are_found(network, tmp_path):
    path = tmp_path / "model_best.pth.tar"
    torch.save(_checkpoint(network), path)
    for suffix, axes in (("", 9), ("_ms", 4)):
        whitening = {"m": np.full((512, 1), 0.5), "P": np.eye(axes, 512)}
        torch.save(whitening, tmp_path / f"model_best.pth.tar_retrieval-SfM-30k_whiten{suffix}.pth")
    again = load(path)
    assert (again.whitening.dim, again.multi_scale_whitening.dim) == (9, 4)
    file = tmp_path / "model_best.pth.tar_retrieval-SfM-30k_whiten.pth"
    assert read_reference_whitening(file).mean.tolist() == [0.5] * 512
    for content, got in (
        ({"m": np.zeros(512)}, "no 'P'"),
        ({"m": np.zeros(3), "P": np.eye(2)}, "whitening: expected a projection (k, 3), got (2, 2); "),
        ({"m": np.zeros(2), "P": np.eye(2) * 1j}, "complex numbers, of pairs too few for it"),
        ({"m": np.zeros(2), "P": np.eye(2) * np.nan}, "whitening: expected finite numbers, got NaN"),
    ):
        torch.save(content, file)
        with pytest.raises(ValueError, match=r"^network .*: expected a whitening \{m, P\} in ") as error:
            load(path)
        assert f"_whiten.pth, got {got}" in str(error.value)
    torch.save({"m": np.zeros(3), "P": np.eye(3)}, file)
    with pytest.raises(ValueError, match=r"expected whitenings of 512-D descriptors, got one of 3-D ones "):
        load(path)


@pytest.fixture(scope="module")
def checkpoints(shared, tmp_path_factory):
    """The two golden checkpoints, decompressed, and what they give."""
    source, folder = shared / "golden" / "network", tmp_path_factory.mktemp("checkpoints")
    for name in ("gem.pth", "gem_whiten.pth.tar"):
        (folder / name).write_bytes(lzma.decompress((source / f"{name}.xz").read_bytes()))
    return folder


@pytest.mark.real
def test_checkpoints_of_the_toolbox_load_and_go_back(shared, checkpoints, tmp_path):
    plain, whitened = load(checkpoints / "gem.pth"), load(checkpoints / "gem_whiten.pth.tar")
    with np.load(shared / "golden" / "network" / "expected.npz") as expected:
        powers, axes = (
            [float(expected[f"{name}/p"]) for name in ("gem", "gem_whiten")],
            expected["gem/362_full_ss_lw"],
        )
    assert [plain.exponent.item(), whitened.exponent.item()] == pytest.approx(powers)
    assert (plain.multi_scale_power, whitened.multi_scale_power) == (pytest.approx(powers[0]), 1.0)
    assert (plain.config.projection, whitened.config.projection) == (None, whitened.trunk.out_channels)
    assert re.fullmatch(r"gem\.pth, retrieval-SfM-\d+k, ss", plain.whitening.note)
    assert plain.whitening.dim == plain.multi_scale_whitening.dim == axes.shape[1]
    for network in (plain, whitened):
        save_reference(network, tmp_path / "again.pth")
        assert load(tmp_path / "again.pth").fingerprint() == network.fingerprint()


@pytest.mark.real
@pytest.mark.parametrize(("name", "file"), [("gem", "gem.pth"), ("gem_whiten", "gem_whiten.pth.tar")])
def test_photos_get_the_descriptors_of_the_toolbox(shared, checkpoints, name, file):
    folder, network = shared / "golden" / "network", load(checkpoints / file)
    with np.load(folder / "expected.npz") as expected:
        assert network.multi_scale_power == pytest.approx(float(expected[f"{name}/msp"]))
        for size in expected["imsizes"].tolist():
            for region in ("full", "crop"):
                boxes = [tuple(box) if region == "crop" else None for box in expected["bbx"].tolist()]
                requests = [
                    ImageRequest(path=folder / photo, box=box)
                    for photo, box in zip(expected["photos"].tolist(), boxes, strict=True)
                ]
                pictures = [open_request(request, size) for request in requests]
                sizes = [picture.size for picture in pictures]
                np.testing.assert_array_equal(sizes, expected[f"resized/{size}_{region}_size"])
                means = [to_levels(picture).double().mean(dim=(1, 2)).numpy() for picture in pictures]
                np.testing.assert_allclose(means, expected[f"resized/{size}_{region}_rgb_mean"], atol=0.02)
                for scales, factors in (("ss", (1.0,)), ("ms", tuple(expected["ms_scales"].tolist()))):
                    config = ExtractConfig(image_size=size, scales=factors)
                    vectors = describe(network, requests, config).require_all()
                    key = f"{name}/{size}_{region}_{scales}"
                    # Another JPEG decoder may round pixels differently: then 1e-2 is what can be asked.
                    atol = 1e-5 if network.projection is not None else 5e-6
                    np.testing.assert_allclose(vectors, expected[key], rtol=0, atol=atol)
                    whitening = network.whitening_for(factors)
                    if whitening is not None:
                        whitened = apply(whitening, vectors)
                        np.testing.assert_allclose(whitened, expected[f"{key}_lw"], rtol=0, atol=1e-5)
