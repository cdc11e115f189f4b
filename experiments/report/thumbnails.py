"""Small pictures of photos as data URIs, for a page that needs no other file."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.evaluation.queries import edit_of


def data_uri(content: bytes, media_type: str) -> str:
    """The content as a URI that carries it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """Makes thumbnails of the photos in a folder, each once; None stands for a photo that cannot be read."""

    photos: Path | None
    longest_px: int = 180
    quality: int = 74
    _made: dict[object, str | None] = field(default_factory=dict)

    def photo(self, name: str) -> str | None:
        """The whole photo, upright."""
        return self._of((name,), lambda photos: ImageRequest(path=photos / name))

    def query(self, row: Mapping[Any, Any]) -> str | None:
        """A held-out query as the network saw it: cut, tilted, relit or retaken.

        `row` has the columns `kind, query, x1, y1, x2, y2, rotation_deg, seed` of the rankings.
        """
        seen = (row["kind"], row["query"], row["x1"], row["y1"], row["x2"], row["y2"], row["seed"])
        return self._of(seen, lambda photos: query_request(row, photos))

    def _of(self, key: object, request: Callable[[Path], ImageRequest]) -> str | None:
        if key not in self._made:
            self._made[key] = self._make(request)
        return self._made[key]

    def _make(self, request: Callable[[Path], ImageRequest]) -> str | None:
        if self.photos is None:
            return None
        try:
            picture = open_request(request(self.photos), self.longest_px)
        except (OSError, ValueError):
            return None
        return data_uri(_jpeg(picture, self.quality), "image/jpeg")


def query_request(row: Mapping[Any, Any], photos: Path) -> ImageRequest:
    """A held-out query of the rankings as the network saw it."""
    path = photos / row["query"]
    if row["kind"] == "whole":
        return ImageRequest(path=path)
    return ImageRequest(
        path=path,
        box=(float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])),
        rotation_deg=float(row["rotation_deg"]),
        edit=edit_of(row["kind"], int(row["seed"])),
        as_photo=True,
    )


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()
