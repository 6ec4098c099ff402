"""Read the configurations of `accelerate launch`, and compare them with `device`."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bula.errors import UserError

FIX = "correct the file, or name another file of its folder in train.launch"
# Messages of the YAML library repeat the lines around an error.
REASON_CHARACTERS = 200


def find_configuration(name: str, folder: Path) -> Path:
    """Return the path of accelerate's configuration `name`.

    UserError lists the existing names.
    """
    file = folder / f"{name}.yaml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        fix = f"set train.launch in params.yaml to one of {known}"
        raise UserError(file, "the file does not exist", fix)
    return file


def read_configuration(file: Path, device: str) -> dict[str, Any]:
    """Return accelerate's settings.

    Raise a UserError if the file is no mapping, or if its `use_cpu` does not agree with
    params.yaml's `device`, "cpu" or "cuda".
    """
    settings = _read_mapping(file)
    wanted = "cpu" if settings.get("use_cpu") else "cuda"
    if wanted != device:
        uses = "the CPU" if wanted == "cpu" else "a GPU"
        what = f"train.launch is {file.stem}, whose file takes {uses}, but device is {device}"
        fix = f"set device: {wanted}, or name another file of {file.parent} in train.launch"
        raise UserError("params.yaml", what, fix)
    return settings


def _read_mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raise a UserError for anything else."""
    try:
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())[:REASON_CHARACTERS]
        raise UserError(file, f"it is no YAML file ({reason})", FIX) from error
    if not isinstance(content, dict):
        raise UserError(file, "it contains no settings of the form `name: value`", FIX)
    return content
