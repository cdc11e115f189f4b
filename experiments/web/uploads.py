"""Photos that visitors send: each in a file of its own as long as its request is answered, and no longer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex

from starlette.datastructures import UploadFile

from experiments.web.faults import RequestFault

_CHUNK_BYTES = 1 << 20


@asynccontextmanager
async def kept_meanwhile(
    upload: UploadFile | None, folder: Path, max_bytes: int
) -> AsyncIterator[Path | None]:
    """A file with what was sent, None for nothing; it is removed at the end of the block.

    The name that it was sent under is not looked at. RequestFault for an empty or too large one.
    """
    if upload is None or (not upload.filename and not upload.size):
        yield None
        return
    path = folder / token_hex(16)
    try:
        size = 0
        with path.open("xb") as file:
            while chunk := await upload.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise RequestFault(
                        "photo",
                        f"photo: expected at most {max_bytes / 1e6:g} MB, got more; save it smaller",
                        413,
                    )
                file.write(chunk)
        if not size:
            raise RequestFault(
                "photo", "photo: expected a file with a picture, got an empty one; choose another"
            )
        yield path
    finally:
        path.unlink(missing_ok=True)
        await upload.close()
