import http.server
import socket
import threading

import pytest
import torch
import torchvision

from cnnimretrieval.networks import pretrained as downloads
from cnnimretrieval.networks import timm_trunks
from cnnimretrieval.networks.backbones import build_trunk
from cnnimretrieval.networks.pretrained import downloaded


@pytest.fixture
def closed() -> str:
    """An address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/weights.pth"


def test_without_a_network_the_answer_names_the_option(closed, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(OSError, match=r"^weights of resnet18: ") as error:
        downloaded("resnet18", closed, lambda: pytest.fail("the library was asked"))
    host = closed.removeprefix("http://").partition("/")[0]
    assert str(error.value) == (
        "weights of resnet18: expected to download them or find them in the cache, got no answer from "
        f"{host} ([Errno 111] Connection refused); give a file of them with --weights"
    )


def test_what_lies_in_the_cache_needs_no_network(closed, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights.pth").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert downloaded("resnet18", closed, lambda: 7) == 7


def test_any_answer_of_the_host_lets_the_library_try(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # It knows no HEAD and says so: an answer all the same.
        assert downloaded("resnet18", f"http://127.0.0.1:{server.server_port}/weights.pth", lambda: 7) == 7
        server.shutdown()


def test_a_failing_library_is_quoted_in_one_line():
    def create():
        raise RuntimeError("no weights\nof this kind")

    with pytest.raises(OSError, match=r"in the cache, got no weights; give a file of them with --weights$"):
        downloaded("resnet18", None, create)


def test_torchvision_starts_from_the_first_published_weights():
    assert downloads.torchvision_weights("resnet50") == torchvision.models.ResNet50_Weights.IMAGENET1K_V1


def test_timm_reads_its_cache_without_asking_its_host(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    saved = timm.create_model("test_vit", pretrained=False)
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(saved.state_dict(), path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(path))
    monkeypatch.setattr(timm_trunks, "downloaded", lambda *_: pytest.fail("a download was tried"))
    trunk = build_trunk("timm:test_vit")
    key = "blocks.0.attn.qkv.weight"
    assert torch.equal(trunk.features.state_dict()[key], saved.state_dict()[key])
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(timm_trunks, "downloaded", lambda name, url, create: pytest.fail(url))
    with pytest.raises(pytest.fail.Exception, match=r"^https://huggingface\.co"):
        build_trunk("timm:test_vit")
