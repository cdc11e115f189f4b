"""Pictures and originals of the photos served, by their rows: no path comes from a visitor."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse, Response

from experiments.web.pictures import PREVIEW_PX, THUMBNAIL_PX
from experiments.web.site import Site

# A picture's address has the version of the collection in it, and its file is one of that.
_KEEP = {"Cache-Control": "private, max-age=86400"}
_HEADS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)


def routes(site: Site) -> APIRouter:
    """The files of what `site` serves."""
    pages = APIRouter(include_in_schema=False)

    @pages.get("/thumbnails/{row}")
    async def thumbnail(row: int) -> Response:
        picture = await site.pictures.jpeg(site.served.checked(row), THUMBNAIL_PX)
        return Response(picture, media_type="image/jpeg", headers=_KEEP)

    @pages.get("/previews/{row}")
    async def preview(row: int) -> Response:
        picture = await site.pictures.jpeg(site.served.checked(row), PREVIEW_PX)
        return Response(picture, media_type="image/jpeg", headers=_KEEP)

    @pages.get("/originals/{row}")
    async def original(row: int) -> FileResponse:
        path = site.served.path(site.served.checked(row))
        media_type = _media_type(path)
        # What browsers do not show themselves they are to keep, not to guess at.
        way = "inline" if media_type.startswith("image/") else "attachment"
        return FileResponse(path, media_type=media_type, filename=path.name, content_disposition_type=way)

    @pages.get("/favicon.ico")
    async def icon() -> RedirectResponse:
        return RedirectResponse("/static/icon.svg")

    return pages


def _media_type(path: Path) -> str:
    """What a file is by its first bytes; its name may say anything."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return next((name for mark, name in _HEADS if head.startswith(mark)), "application/octet-stream")
