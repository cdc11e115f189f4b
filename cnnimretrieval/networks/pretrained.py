"""Weights by their library's own download; without a network the answer comes at once, in one line."""

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision

_TIMEOUT_S = 10.0
# The first set of weights is the one that the published retrieval networks start from.
_FIRST_WEIGHTS = "IMAGENET1K_V1"


def torchvision_weights(name: str) -> Any:
    """The weights that torchvision offers for `name`, with their `url`."""
    return torchvision.models.get_model_weights(name)[_FIRST_WEIGHTS]


def downloaded(name: str, url: str | None, create: Callable[[], Any]) -> Any:
    """The network that `create` makes with its library's download; OSError in one line when that fails.

    The host of `url` is asked first unless the file lies in torch's cache: libraries go on trying for up to
    a minute where there is no network. None asks nobody.
    """
    try:
        if url is not None and not _in_torch_cache(url):
            _require_host(url)
        return create()
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(
            f"weights of {name}: expected to download them or find them in the cache, got {reason}; "
            "give a file of them with --weights"
        ) from error


def _in_torch_cache(url: str) -> bool:
    return (Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name).is_file()


def _require_host(url: str) -> None:
    """OSError unless somebody answers at the host of `url`, directly or through the proxy that is set."""
    parts = urlsplit(url)
    request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError as answer:
        # Any answer will do: the address of the file itself is the library's business.
        answer.close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"no answer from {parts.netloc} ({reason})") from error
