"""Local features of single photos, as `--features` names them, with the photos to draw them on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.detected import detection
from cnnimretrieval.local.pairing import ON_A_GRID
from cnnimretrieval.local.pyramid import PyramidConfig
from experiments import machine
from experiments.exit_codes import UsageFault
from experiments.report.shown import Finder, MethodFinder, NetworkFinder, Shown


def is_network(features: str) -> bool:
    """Whether `--features` gives a network, which is a folder or file that is there; a method has a name."""
    return Path(features).exists()


def tolerances(features: str) -> Mapping[str, float]:
    """What of a `PairConfig` suits what `--features` gives, where nobody sets it."""
    return ON_A_GRID if is_network(features) else {}


def shown(photos: Sequence[Path], features: str, max_features: int) -> list[Shown]:
    """The photos with their features.

    Raises:
        UsageFault: no such method, or a network without a local head.
        OSError: a photo that cannot be used, by its name.

    """
    requests = [ImageRequest(path=path) for path in photos]
    finder = _finder(features, max_features, workers=len(photos))
    found = finder.find(requests)
    for path, one in zip(photos, found, strict=True):
        if one.reason:
            raise OSError(
                f"photo {path}: expected local features, got '{one.reason}'; take another photo or another "
                "method"
            )
    return [finder.attend(one) for one in found]


def _finder(features: str, max_features: int, workers: int) -> Finder:
    if is_network(features):
        network = machine.load_network(features, None)
        machine.require_local(network, features)
        return NetworkFinder(network, PyramidConfig(number=max_features), machine.device("auto"))
    try:
        return MethodFinder(config=detection(features, max_features), workers=workers)
    except ValidationError as error:
        message = str(error.errors()[0]["ctx"]["error"])
        raise UsageFault(
            message.replace("features.method: expected ", "--features: expected the folder of a network, ", 1)
        ) from error
