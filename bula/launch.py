"""Read the configurations of `accelerate launch`, and compare them with `device`."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bula.errors import UserError


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

    Raise a UserError unless `use_cpu` agrees with params.yaml's `device`, "cpu" or "cuda".
    """
    settings: dict[str, Any] = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    wanted = "cpu" if settings.get("use_cpu") else "cuda"
    if wanted != device:
        uses = "the CPU" if wanted == "cpu" else "a GPU"
        what = f"train.launch is {file.stem}, whose file takes {uses}, but device is {device}"
        fix = f"set device: {wanted}, or name another file of {file.parent} in train.launch"
        raise UserError("params.yaml", what, fix)
    return settings
