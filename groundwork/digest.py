"""The digest of a file's bytes. No pandas here: processes that read photos load this."""

import hashlib
from pathlib import Path


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
