"""Decide which API key goes to which host, and keep keys out of every text.

The key of an outside server is OPENAI_API_KEY, from the environment or from the file `.env` in the
repository's root. Which hosts may receive it is read from the environment alone: params.yaml and
`.env` can arrive with somebody's pull request.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote

import httpx2
from dotenv import dotenv_values

from bula.errors import UserError

KEY = "OPENAI_API_KEY"
HOSTS = "BULA_JUDGE_HOSTS"
DEFAULT_HOSTS = "api.openai.com"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Servers on this machine get a key that opens nothing.
LOCAL_KEY = "local"
ENV_FILE = Path(".env")
PLAIN_HEADERS = {
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "user-agent",
}
# OpenAI's client reads this one again when the reply is there.
PLAIN_HEADERS |= {"x-stainless-raw-response"}
# Two parsers cannot disagree on the host of such a URL: no user, query, escape, or letter beyond ASCII.
URL = re.compile(
    r"""(?P<scheme>https?)://
        (?P<host>[a-z0-9.-]+|\[[0-9a-f:]+\])
        (?::(?P<port>[0-9]{1,5}))?
        (?:/[a-z0-9._~/-]*)?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def host_of(url: str) -> str:
    """Return the host of a plain http or https URL, in lower case; UserError for another text."""
    return _split(url)[1]


def key_for(url: str) -> str:
    """Return the API key that may be sent to `url`; UserError if none may.

    A server on this machine gets LOCAL_KEY. Others get OPENAI_API_KEY, over https and if
    BULA_JUDGE_HOSTS lists their host (with the port, unless it is 443).
    """
    scheme, host, port = _split(url)
    if host in LOOPBACK:
        return LOCAL_KEY
    if scheme != "https":
        raise UserError(
            url, f"{KEY} is sent over https alone", "write https:// or use a server on this machine"
        )
    allowed = [name.strip().lower() for name in os.environ.get(HOSTS, DEFAULT_HOSTS).split(",")]
    address = host if port in ("", "443") else f"{host}:{port}"
    if address not in allowed:
        fix = f"if you trust that host with your key, add it to the environment variable {HOSTS} (comma-separated)"
        raise UserError(url, f"{KEY} may not be sent to {address}", fix)
    return _read_key()


def keep_plain_headers(key: str, request: httpx2.Request) -> None:
    """Remove every header of a request that its server does not need; `key` is the only secret left.

    OpenAI's client adds organization, project and custom headers from its own environment variables.
    """
    for name in set(request.headers) - PLAIN_HEADERS:
        del request.headers[name]
    request.headers["Authorization"] = f"Bearer {key}"


def hide(text: str, key: str) -> str:
    """Return text with the key replaced by a placeholder."""
    if key == LOCAL_KEY:
        return text
    for form in (key, quote(key, safe="")):
        text = text.replace(form, "[key]")
    return text


def _split(url: str) -> tuple[str, str, str]:
    """Return scheme, host and port (empty if none is written) of a plain URL."""
    found = URL.fullmatch(url)
    if found is None:
        fix = "write it as https://host/path, without a user, query or fragment"
        raise UserError(url, "this is not a plain http or https URL", fix)
    return found["scheme"].lower(), found["host"].lower().strip("[]"), found["port"] or ""


def _read_key() -> str:
    """Return OPENAI_API_KEY; UserError if it is missing or no HTTP header can carry it."""
    key = os.environ.get(KEY) or _read_env_file().get(KEY) or ""
    if not key:
        raise UserError(
            f"the environment variable {KEY}",
            "it is not set",
            f"set it, or write {KEY}=... into {ENV_FILE}",
        )
    if not re.fullmatch("[!-~]+", key):
        raise UserError(
            f"the environment variable {KEY}",
            "it holds a character that no key has",
            "copy the key again",
        )
    return key


def _read_env_file() -> dict[str, str | None]:
    """Return the names and values of `.env`, as they are written."""
    try:
        return dotenv_values(ENV_FILE, interpolate=False)
    except UnicodeDecodeError:
        # The decoder's message would show bytes of the file.
        raise UserError(ENV_FILE, "it is not UTF-8 text", "save it as UTF-8") from None
