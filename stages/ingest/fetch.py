"""Fetch over the network within limits of bytes and of wall-clock time."""

import hashlib
import http.client
import signal
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

from bula.errors import UserError
from bula.params import Limits

Item = TypeVar("Item")
# Bytes that are read from a connection at once.
CHUNK = 1 << 20
# Longest silence of a server, in seconds.
SILENCE = 60
# A library may catch a deadline's error and retry, so the error comes again after each pause.
AGAIN = 1.0
REDIRECTS = {301, 302, 303, 307, 308}
HOPS = 10
NETWORK_ERRORS = (OSError, http.client.HTTPException, UnicodeError, ValueError)


@contextmanager
def deadline(seconds: float, where: str) -> Iterator[None]:
    """Raise UserError in the block once `seconds` of wall-clock time have passed.

    A timeout of a socket restarts with every byte, so a server that drips would never end.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread can be interrupted by a deadline")

    def stop(_signal: int, _frame: FrameType | None) -> None:
        what = "the transfer takes longer than ingest.limits.download_seconds allows"
        raise UserError(where, what, "try again later, or raise the limit")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def within(seconds: float, items: Iterable[Item], where: str) -> Iterator[Item]:
    """Yield items; UserError once waiting for them has taken `seconds` in all."""
    waiting = iter(items)
    left, missing = float(seconds), object()
    while True:
        start = monotonic()
        with deadline(left, where):
            item = next(waiting, missing)
        left -= monotonic() - start
        if item is missing:
            return
        yield item  # type: ignore[misc]


def public_address(url: str) -> str:
    """Return an address without its query, which may hold a token."""
    return url.split("?")[0]


def download(url: str, sha256: str, path: Path, limits: Limits) -> None:
    """Write the file behind an address to `path`; UserError if it is not the pinned one."""
    where = public_address(url)
    digest = hashlib.sha256()
    with deadline(limits.download_seconds, where), path.open("wb") as file:
        for chunk in _chunks(url, where, limits.download_bytes):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        what = f"it has sha256 {digest.hexdigest()}, params.yaml says {sha256}; nothing was kept"
        raise UserError(where, what, "look at what changed there before you correct `sha256`")


def _chunks(url: str, where: str, largest: int) -> Iterator[bytes]:
    """Yield what an address serves, at most `largest` bytes."""
    size = 0
    try:
        with _follow(url, where) as reply:
            # read1 returns with each packet, so that the size is looked at in time.
            while chunk := reply.read1(CHUNK):
                size += len(chunk)
                if size > largest:
                    what = f"it serves more than {largest} bytes"
                    fix = "raise ingest.limits.download_bytes, or name another file"
                    raise UserError(where, what, fix)
                yield chunk
    except NETWORK_ERRORS as error:
        what = f"it cannot be fetched ({_reason(error)})"
        raise UserError(where, what, "check the network and the address") from error


def _follow(url: str, where: str) -> Any:
    """Return the reply behind an address, after at most HOPS redirects.

    urllib's own handler follows a redirect to ftp or from https to http, and reads the body of a
    redirect to its end.
    """
    connect = opener()
    for _ in range(HOPS):
        try:
            return connect.open(url, timeout=SILENCE)
        except urllib.error.HTTPError as error:
            error.close()
            target = error.headers.get("Location")
            if error.code not in REDIRECTS or target is None:
                raise
        scheme = url.split(":")[0]
        url = urllib.parse.urljoin(url, target)
        if url.split(":")[0] not in {scheme, "https"}:
            what = "it redirects to an address that is not https"
            raise UserError(where, what, "name the address that holds the file")
    raise UserError(
        where, f"it redirects more than {HOPS} times", "name the address that holds the file"
    )


def opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone; it verifies certificates."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        director.add_handler(handler)
    return director


def _reason(error: Exception) -> str:
    """Return why a server could not be read, without addresses."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return getattr(error, "strerror", None) or type(error).__name__
