"""One file over HTTP: resumed where it stopped, never glued from two versions, whole or absent.

Bytes gather in FILE.part; FILE.part.json says what they belong to. A rerun asks for the rest on the condition
that the file is still the same (Range and If-Range, RFC 9110); a server that cannot tell starts again.
"""

import contextlib
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, cast

from pydantic import Field

from cnnimretrieval.downloads.part import Origin, begin, part_of, require_room, resumable, size
from groundwork.progress import progress
from groundwork.settings import Settings

logger = logging.getLogger(__name__)

_AGENT = "cnnimretrieval"
_BLOCK = 1 << 20
# What passes by itself: too many requests, and a server or gateway in trouble.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class TransferConfig(Settings):
    """How patient a transfer is."""

    timeout_s: float = Field(default=60.0, gt=0, description="without a single byte")
    attempts: int = Field(default=6, gt=0, description="in a row that brought nothing new")
    first_pause_s: float = Field(default=1.0, ge=0, description="doubles with every such attempt")
    max_pause_s: float = Field(default=60.0, ge=0)


class TransferError(OSError):
    """A file that cannot be had from one address; another may have it."""


class _Passing(Exception):
    """A failure worth another attempt; `pause_s` is what the server asked for."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def fetch(
    url: str,
    target: Path,
    config: TransferConfig,
    *,
    hashed: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Complete the .part file of `target` from `url`; whether it was put together from several answers.

    The caller looks at its content and renames it. `hashed` says that a hash will vouch for it; without one,
    bytes are continued only when the server can tell that they are of the same file, and a file of unknown
    length is refused.

    Raises:
        TransferError: refused, not found, no progress in `config.attempts` attempts, or a web page instead.
        OSError: the disk is full or cannot be written.

    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    idle, best, answers = 0, size(part), 1 if part.exists() else 0
    while True:
        try:
            with _opened(url, part, config, hashed) as answer:
                answers = answers + 1 if answer.start else 1
                _copy(answer, part, target.name)
            return answers > 1
        except _Passing as error:
            reached = size(part)
            idle, best = (0, reached) if reached > best else (idle + 1, best)
            if idle >= config.attempts:
                raise TransferError(
                    f"{url}: expected the whole file, got {error} {idle} times in a row; "
                    "run it again later to continue, or give a --mirror"
                ) from error
            pause = max(min(error.pause_s, config.max_pause_s), _pause(idle, config))
            logger.warning("%s: %s; trying again in %.0f s", url, error, pause)
            sleep(pause)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the server sends: the bytes from `start` on, of `total` in all (None: until it stops)."""

    body: HTTPResponse | None
    start: int
    total: int | None


@contextlib.contextmanager
def _opened(url: str, part: Path, config: TransferConfig, hashed: bool) -> Iterator[_Answer]:
    """Ask for what is missing of `part`; its origin is on disk before its bytes are."""
    offset, origin = resumable(url, part, hashed)
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    try:
        with _request(url, headers, config) as response:
            yield _answer(url, response, part, offset, origin, hashed)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:
            if origin.total == offset:
                yield _Answer(body=None, start=offset, total=offset)
                return
            part.unlink()
            raise _Passing("a part that is no longer there") from error
        raise _refusal(url, error) from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise TransferError(f"{url}: expected a valid certificate, got {_reason(error)}") from error
        raise _Passing(_reason(error)) from error


def _request(url: str, headers: Mapping[str, str], config: TransferConfig) -> HTTPResponse:
    opener = urllib.request.build_opener(_NoDowngrade())
    request = urllib.request.Request(url, headers=dict(headers))
    return cast(HTTPResponse, opener.open(request, timeout=config.timeout_s))


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows a redirection, but never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise TransferError(
                f"{req.full_url}: expected to stay on https, got sent to {newurl}; give a --mirror"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _answer(
    url: str, response: HTTPResponse, part: Path, offset: int, origin: Origin, hashed: bool
) -> _Answer:
    if response.status == 206:
        start, total = _content_range(response.headers)
        if start != offset or total != origin.total:
            part.unlink()
            raise _Passing(f"bytes from {start} of {total} instead of from {offset} of {origin.total}")
        return _Answer(body=response, start=start, total=total)
    _refuse_page(url, response.headers)
    total = int(length) if (length := response.headers.get("Content-Length", "")).isdigit() else None
    if total is None and not hashed and not response.chunked:
        raise TransferError(
            f"{url}: expected a server that says how long the file is, got one that does not; give a --mirror"
        )
    require_room(part, total)
    begin(part, Origin(url=url, validator=_validator(response.headers), total=total))
    return _Answer(body=response, start=0, total=total)


def _copy(answer: _Answer, part: Path, name: str) -> None:
    if answer.body is None:
        return
    with (
        part.open("ab") as file,
        progress(desc=name, total=answer.total, initial=answer.start, unit="B", unit_scale=True) as bar,
    ):
        while block := answer.body.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
    if answer.total is not None and size(part) < answer.total:
        raise _Passing(f"a connection that ended after {size(part):,} of {answer.total:,} bytes")


def _validator(headers: Message) -> str:
    """What If-Range may hold: a strong ETag, else the date of the last change, else nothing."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _content_range(headers: Message) -> tuple[int, int | None]:
    """Start and total of `bytes 500-999/1000`; (-1, None) when it says something else."""
    unit, _, rest = headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit() or not total.isdigit():
        return -1, None
    return int(start), int(total)


def _refuse_page(url: str, headers: Message) -> None:
    """A login, a search or an error page that comes with status 200 is not the file."""
    if headers.get_content_type() == "text/html":
        raise TransferError(f"{url}: expected a file, got a web page; give a --mirror")


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in _PASSING:
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        return _Passing(f"HTTP {error.code} {error.reason}", float(wait) if wait.isdigit() else 0.0)
    return TransferError(f"{url}: expected a file, got HTTP {error.code} {error.reason}; give a --mirror")


def _pause(idle: int, config: TransferConfig) -> float:
    return float(min(config.first_pause_s * 2 ** max(idle - 1, 0), config.max_pause_s))


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return f"'{reason}'" if str(reason) else type(error).__name__
