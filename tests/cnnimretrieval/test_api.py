import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from PIL import Image

import cnnimretrieval as cr
from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.whitening.apply import Whitening


@pytest.fixture
def model(tmp_path):
    network = build(NetworkConfig(backbone="squeezenet1_1", pooling="gem"), "random", seed=3)
    rng = np.random.default_rng(0)
    mean, projection = rng.normal(scale=0.01, size=512), np.linalg.qr(rng.normal(size=(512, 8)))[0].T
    network.whitening = Whitening(mean=mean, projection=projection, kind="pca", note="n")
    save(network, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, size in enumerate([(90, 70), (64, 96), (120, 50)]):
        levels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 1 + 5 * (number == 1)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(levels).save(paths[-1], exif=exif)
    return paths


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_files_and_pictures_are_described_as_by_extract(model, files, tmp_path, whiten, scales):
    network = cr.load(model)
    config = ExtractConfig(image_size=80, scales=scales)
    requests = [ImageRequest(path=path) for path in files]
    stored = extract(network.network, requests, tmp_path, tmp_path / "out", config, whiten=whiten)
    pictures = [str(files[0]), Image.open(files[1]), files[2]]
    found = network.describe(pictures, image_size=80, scales=scales, whiten=whiten)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored.vectors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert network.describe([], whiten=whiten).shape == (0, found.shape[1])


def test_what_cannot_be_described_is_named(model, tmp_path):
    network = cr.load(model)
    (tmp_path / "text.jpg").write_text("no photo")
    with pytest.raises(OSError, match=r"photo .*text\.jpg: expected an image, got 'not an image'"):
        network.describe([tmp_path / "text.jpg"])
    with pytest.raises(OSError, match=r"photo: expected a file, got .*none\.jpg, which is none"):
        network.describe([tmp_path / "none.jpg"])
    with pytest.raises(ValueError, match="resnet1"):
        cr.load("resnet1:gem")


def test_the_version_is_that_of_the_package():
    assert cr.__version__ == metadata.version("cnnimretrieval")
    with pytest.raises(AttributeError, match="module 'cnnimretrieval' has no attribute 'lode'"):
        _ = cr.lode


def test_importing_does_not_wait_for_torch():
    heavy = {"torch", "numpy", "PIL", "pandas", "pydantic", "tqdm", "inspect", "asyncio"}
    script = f"import sys, cnnimretrieval; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_stages_for_programs_do_what_their_commands_do(model, files, tmp_path):
    (tmp_path / "photos").mkdir()
    for path in files:
        path.rename(tmp_path / "photos" / path.name)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    store = cr.extract(
        model, tmp_path / "photos", tmp_path / "out", cr.ExtractConfig(image_size=80), workers=0
    )
    assert list(store.images["name"]) == ["0.png", "1.png", "2.png"]
    assert store.rejected.to_dict("records") == [{"name": "notes.txt", "reason": "not an image"}]
    query = tmp_path / "photos" / "1.png"
    (answer,) = cr.search(cr.load(model), str(tmp_path / "out"), [query], top=2)
    assert answer.query == query
    assert answer.hits[0].name == "1.png"
    assert answer.hits[0].score == pytest.approx(1.0, abs=1e-4)
    described = cr.describe(model, [query], image_size=80)
    np.testing.assert_allclose(described[0], store.vectors[1], atol=1e-6)
    with pytest.raises(
        TypeError, match=r"queries: expected a list of photos, got '1\.png'; put it into a list"
    ):
        cr.search(model, tmp_path / "out", "1.png")


def test_stages_that_find_nothing_say_so(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="expected"):
        cr.reconstruct(tmp_path / "photos", tmp_path / "sfm", workers=1)
    with pytest.raises(FileNotFoundError):
        cr.mine(tmp_path / "sfm", tmp_path / "pairs")
    with pytest.raises(FileNotFoundError):
        cr.fine_tune(tmp_path / "pairs", tmp_path / "model", weights="random")


def test_everything_offered_is_there():
    for name in cr.__all__:
        assert getattr(cr, name) is not None
    assert set(cr.__all__) <= set(dir(cr))


def test_progress_is_told_only_when_asked_for():
    script = (
        "import logging, sys, cnnimretrieval as cr\n"
        "logging.getLogger('sfm.reconstruct').warning('a warning')\n"
        "cr.show_progress()\n"
        "logging.getLogger('sfm.reconstruct').info('a line')\n"
        "cr.show_progress(False)\n"
        "logging.getLogger('sfm.reconstruct').info('another')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "a line\n")


def test_search_is_the_function_and_the_package():
    import cnnimretrieval.search.rerank as package

    assert package.RerankConfig is cr.RerankConfig
    assert cr.search.rerank is package
    assert callable(cr.search)
