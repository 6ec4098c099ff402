"""Decide which API key a host receives, and hide keys in text.

The key for an outside server is OPENAI_API_KEY, from the environment or from the file `.env` in the
repository's root. The allowed hosts come only from the environment, because somebody's pull
request may change params.yaml or add a `.env`.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import httpx2
from dotenv import dotenv_values

from bula.errors import UserError

KEY = "OPENAI_API_KEY"
HOSTS = "BULA_JUDGE_HOSTS"
DEFAULT_HOSTS = "api.openai.com"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Servers on this machine receive this dummy key.
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
    # OpenAI's client reads this header of the request again when the reply arrives.
    "x-stainless-raw-response",
}
# Without a user, query, escape or non-ASCII letter, every URL parser finds the same host.
URL = re.compile(
    r"""
    (?P<scheme>https?)://
    (?P<host>[a-z0-9.-]+|\[[0-9a-f:]+\])   # a name, an IPv4 address, or an IPv6 address in brackets
    (?::(?P<port>[0-9]{1,5}))?
    (?:/[a-z0-9._~/-]*)?                   # a path
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


class Address(NamedTuple):
    """The scheme, host and port of a URL; a missing port is empty."""

    scheme: str
    host: str
    port: str


def host_of(url: str) -> str:
    """Return the host of a plain URL in lower case.

    Raise UserError if `url` is not a plain http or https URL.
    """
    return _split(url).host


def key_for(url: str) -> str:
    """Return the API key that may be sent to `url`.

    A server on this machine receives LOCAL_KEY. Another server receives OPENAI_API_KEY if the URL
    is https and BULA_JUDGE_HOSTS lists its host (with the port, unless it is 443). Raise UserError
    for every other URL.
    """
    address = _split(url)
    if address.host in LOOPBACK:
        return LOCAL_KEY
    if address.scheme != "https":
        fix = "write https:// or use a server on this machine"
        raise UserError(url, f"{KEY} is sent only over https", fix)
    name = address.host
    if address.port not in ("", "443"):
        name = f"{address.host}:{address.port}"
    if name not in _allowed_hosts():
        fix = (
            "if you trust that host with your key, add it to the environment variable "
            f"{HOSTS} (comma-separated)"
        )
        raise UserError(url, f"{KEY} may not be sent to {name}", fix)
    return _read_key()


def _allowed_hosts() -> list[str]:
    """Return the hosts that may receive OPENAI_API_KEY."""
    names = os.environ.get(HOSTS, DEFAULT_HOSTS).split(",")
    return [name.strip().lower() for name in names]


def keep_plain_headers(key: str, request: httpx2.Request) -> None:
    """Remove the headers that the server does not need; set the key.

    OpenAI's client adds organization, project and custom headers from its environment variables.
    """
    for name in set(request.headers) - PLAIN_HEADERS:
        del request.headers[name]
    request.headers["Authorization"] = f"Bearer {key}"


def hide(text: str, key: str) -> str:
    """Return `text` with a placeholder in place of the key."""
    if key == LOCAL_KEY:
        return text
    url_encoded = quote(key, safe="")
    return text.replace(key, "[key]").replace(url_encoded, "[key]")


def _split(url: str) -> Address:
    """Return the parts of a plain URL.

    Raise UserError for any other text.
    """
    found = URL.fullmatch(url)
    if found is None:
        fix = "write it as https://host/path, without a user, query or fragment"
        raise UserError(url, "this is not a plain http or https URL", fix)
    host = found["host"].lower().strip("[]")
    return Address(found["scheme"].lower(), host, found["port"] or "")


def _read_key() -> str:
    """Return OPENAI_API_KEY, from the environment or from `.env`.

    Raise UserError if the key is missing or contains a character that no HTTP header can carry.
    """
    where = f"the environment variable {KEY}"
    key = os.environ.get(KEY) or _read_env_file().get(KEY) or ""
    if not key:
        raise UserError(where, "it is not set", f"set it, or write {KEY}=... into {ENV_FILE}")
    if not re.fullmatch("[!-~]+", key):
        what = "it contains a character that no key has"
        raise UserError(where, what, "copy the key again")
    return key


def _read_env_file() -> dict[str, str | None]:
    """Return the names and values in `.env`, without interpolation."""
    try:
        return dotenv_values(ENV_FILE, interpolate=False)
    except UnicodeDecodeError:
        # Drop the cause, because the decoder's message shows bytes of the file.
        raise UserError(ENV_FILE, "it is not UTF-8 text", "save it as UTF-8") from None
