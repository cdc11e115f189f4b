"""Files that visitors send although they should not."""

import io
import struct
import zlib

from PIL import Image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred kilobytes at most that unpacks to so many gray pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def cut_jpeg() -> bytes:
    """A JPEG that ends in the middle."""
    stream = io.BytesIO()
    Image.effect_noise((200, 150), 60).convert("RGB").save(stream, "JPEG", quality=90)
    return stream.getvalue()[:3000]
