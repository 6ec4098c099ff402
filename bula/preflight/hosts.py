"""Ask hub, package index, addresses and scheduler for what a run fetches.

Nothing is downloaded.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import httpx2

from bula.errors import UserError
from bula.params import (
    BaseEncoder,
    DataSource,
    Encoder,
    HubModel,
    HubSource,
    HubTask,
    JudgeSource,
    Params,
    TaskSource,
    UrlSource,
    UrlTask,
    WheelPart,
    WheelsModel,
)
from bula.preflight.checks import NETWORK_SECONDS, Check

# Shorter than the limit of a check, so that the reason is known before the limit ends.
REQUEST_SECONDS = NETWORK_SECONDS - 1
# pip itself takes seconds to start on a busy machine, and asks each of its indexes in turn.
PIP_SECONDS = 15.0
SCHEDULER = "DASK_SCHEDULER_ADDRESS"


class Pinned(NamedTuple):
    """A part of a model that is fetched."""

    kind: Literal["model", "wheel"]
    """A repository of the hub, or a wheel of the package index."""
    name: str
    version: str
    """Version of a wheel, or commit of a repository."""


def model_checks(params: Params) -> list[Check]:
    """Return one check per repository and per wheel of the models.

    What two models share is checked once.
    """
    sources: dict[str, JudgeSource | Encoder] = {
        "ingest.base": params.ingest.base,
        "ingest.judge": params.ingest.judge,
    }
    if not isinstance(params.bertscore.encoder, BaseEncoder):
        sources["bertscore.encoder"] = params.bertscore.encoder
    if isinstance(params.privacy.names, HubModel):
        sources["privacy.names"] = params.privacy.names
    if isinstance(params.preprocess.encoder, HubModel):
        sources["preprocess.encoder"] = params.preprocess.encoder
    keys: dict[Pinned, list[str]] = {}
    for key, source in sources.items():
        for pinned in _fetched_parts(source):
            keys.setdefault(pinned, []).append(key)
    checks = []
    for pinned, names in keys.items():
        key = " and ".join(names)
        if pinned.kind == "model":
            checks.append(_repository(key, "model", pinned.name, pinned.version))
        else:
            run = partial(check_wheel, pinned.name, pinned.version)
            name = f"wheel {pinned.name} {pinned.version}"
            checks.append(Check(key, name, run, network=True, seconds=PIP_SECONDS + 1))
    return checks


def _fetched_parts(source: JudgeSource | Encoder) -> Iterator[Pinned]:
    """Yield the parts of a model that are fetched."""
    if isinstance(source, HubModel):
        yield Pinned("model", source.id, source.revision)
    parts = source.parts if isinstance(source, WheelsModel) else [source]
    for part in parts:
        if isinstance(part, WheelPart):
            yield Pinned("wheel", part.package, part.version)


def data_checks(params: Params) -> list[Check]:
    """Return one check per source and benchmark of the network."""
    checks = []
    sections: dict[str, Sequence[DataSource | TaskSource]] = {
        "sources": params.ingest.sources,
        "benchmarks": params.ingest.benchmarks,
    }
    for section, sources in sections.items():
        for source in sources:
            key = f"ingest.{section}, {source.name}"
            if isinstance(source, HubSource | HubTask):
                checks.append(_repository(key, "dataset", source.id, source.revision))
            if isinstance(source, UrlSource | UrlTask):
                address = source.url.split("?")[0]
                run = partial(check_address, source.url)
                checks.append(Check(key, f"file {address}", run, network=True))
    return checks


def scheduler_checks(params: Params) -> list[Check]:
    """Return the check of the Dask scheduler, if params.yaml asks for one."""
    if params.compute.scheduler == "none":
        return []
    name = "the Dask scheduler"
    return [Check("compute.scheduler", name, check_scheduler, network=True)]


def _repository(key: str, kind: Literal["model", "dataset"], name: str, revision: str) -> Check:
    """Return the check of one repository of the hub."""
    # Imported before the clock starts, because the hub's client takes a second to load.
    from bula.hub_access import check_repository

    run = partial(check_repository, kind, name, revision, REQUEST_SECONDS)
    return Check(key, f"{kind} {name}", run, network=True)


def check_wheel(package: str, version: str) -> str:
    """Ask pip for the versions of a package, by the user's settings."""
    where = f"{package} {version}"
    options = ["--timeout", f"{REQUEST_SECONDS:g}", "--retries", "0", "--only-binary", ":all:"]
    command = [sys.executable, "-P", "-m", "pip", "index", "versions", package, *options]
    fix = "check the network and pip's index (`pip config list`)"
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=PIP_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        what = f"the model's wheel cannot be reached: no answer in {PIP_SECONDS:g} s"
        raise UserError(where, what, fix) from error
    if result.returncode:
        what = (
            "the model's wheel cannot be reached: pip finds no package index, or no such package "
            "there"
        )
        raise UserError(where, what, fix)
    if version not in _listed_versions(result.stdout):
        what = "the package index has other versions, but not this one"
        raise UserError(where, what, "correct `version` in params.yaml")
    return "the package index has it"


def _listed_versions(text: str) -> list[str]:
    """Return the versions that pip lists."""
    for line in text.splitlines():
        name, _, versions = line.partition(":")
        if name == "Available versions":
            return [version.strip() for version in versions.split(",")]
    return []


def check_address(url: str) -> str:
    """Open an http or https address, and read no byte of its content."""
    # A query may contain a token.
    where = url.split("?")[0]
    fix = "check the network and `url` in params.yaml"
    try:
        with httpx2.stream("GET", url, follow_redirects=True, timeout=REQUEST_SECONDS) as reply:
            status = reply.status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        what = f"it cannot be reached ({type(error).__name__})"
        raise UserError(where, what, fix) from error
    if status >= 400:
        raise UserError(where, f"the server answered {status}", fix)
    return f"the server answered {status}"


def check_scheduler() -> str:
    """Open a connection to the Dask scheduler, and close it."""
    address = os.environ.get(SCHEDULER, "")
    if not address:
        fix = "set it to the scheduler's address, such as tls://HOST:8786"
        raise UserError(SCHEDULER, "the environment does not name a scheduler", fix)
    if importlib.util.find_spec("distributed") is None:
        raise UserError("distributed", "the package is not installed", "install it with pip")
    parts = urllib.parse.urlsplit(address)
    try:
        port = parts.port or 8786
        with socket.create_connection((parts.hostname or "", port), timeout=REQUEST_SECONDS):
            return f"{parts.hostname} answers on port {port}"
    except (OSError, ValueError) as error:
        what = f"nothing answers at {address} ({error})"
        raise UserError(SCHEDULER, what, "start the scheduler, or correct the address") from error
