"""Local features of single photos, as `--features` names them, with the photos to draw them on."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.local.detected import LONGEST_PX, detect_each, detection
from experiments.exit_codes import UsageFault
from experiments.report.match_figure import Shown
from groundwork.orientation import upright_size
from groundwork.photos import stored_shape


def shown(photos: Sequence[Path], features: str, max_features: int) -> list[Shown]:
    """The photos with their features.

    Raises:
        UsageFault: no such method.
        OSError: a photo that cannot be used, by its name.

    """
    try:
        config = detection(features, max_features)
    except ValidationError as error:
        message = str(error.errors()[0]["ctx"]["error"])
        raise UsageFault(message.replace("features.method", "--features", 1)) from error
    requests = [ImageRequest(path=path) for path in photos]
    pictures = [open_request(request, LONGEST_PX) for request in requests]
    found = detect_each(requests, config, workers=len(photos))
    shown = []
    for request, picture, detected in zip(requests, pictures, found, strict=True):
        if detected.reason:
            raise OSError(
                f"photo {request.path}: expected local features, got '{detected.reason}'; take another "
                "photo or another method"
            )
        width = upright_size(*stored_shape(request.path))[0]
        shown.append(Shown(picture=picture, width=float(width), features=detected.features()))
    return shown
