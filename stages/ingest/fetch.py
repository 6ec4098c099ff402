"""Fetch a pinned file over the network within limits."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.params import Limits
from stages.ingest.deadlines import deadline

# Most bytes that are read from a connection at once.
CHUNK_BYTES = 1 << 20
# Longest silence of a server.
SILENCE_SECONDS = 60
REDIRECT_CODES = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 10
NETWORK_ERRORS = (OSError, http.client.HTTPException, UnicodeError, ValueError)


def public_address(url: str) -> str:
    """Return an address without its query, which may contain a token."""
    return url.split("?")[0]


def download(url: str, sha256: str, path: Path, limits: Limits) -> None:
    """Write the file behind an address to `path`.

    UserError if the file does not have the pinned checksum.
    """
    where = public_address(url)
    digest = hashlib.sha256()
    with deadline(limits.download_seconds, where), path.open("wb") as file:
        for chunk in _chunks(url, where, limits.download_bytes):
            digest.update(chunk)
            file.write(chunk)
    found = digest.hexdigest()
    if found != sha256:
        what = f"it has sha256 {found}, params.yaml says {sha256}; nothing was kept"
        raise UserError(where, what, "check what changed there before you correct `sha256`")


def _chunks(url: str, where: str, largest: int) -> Iterator[bytes]:
    """Yield the content behind an address, at most `largest` bytes."""
    size = 0
    try:
        with _follow(url, where) as reply:
            # read1 returns after each packet, so the size is checked early.
            while chunk := reply.read1(CHUNK_BYTES):
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
    """Return the reply behind an address after its redirects.

    The handler of urllib follows redirects to ftp and from https to http, and reads the complete
    body of a redirect.
    """
    fix = "name the address of the file itself"
    connect = opener()
    for _ in range(MOST_REDIRECTS):
        try:
            return connect.open(url, timeout=SILENCE_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            target = error.headers.get("Location")
            if error.code not in REDIRECT_CODES or target is None:
                raise
        allowed = {_scheme(url), "https"}
        url = urllib.parse.urljoin(url, target)
        if _scheme(url) not in allowed:
            raise UserError(where, "it redirects to an address that is not https", fix)
    raise UserError(where, f"it redirects more than {MOST_REDIRECTS} times", fix)


def _scheme(url: str) -> str:
    """Return the scheme of an address, such as https."""
    return url.split(":")[0]


def opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https that verifies certificates."""
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
    """Return why a server could not be read, without its address."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return getattr(error, "strerror", None) or type(error).__name__
