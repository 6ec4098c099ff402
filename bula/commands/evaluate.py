"""Score a received model beside the base, without training.

The run has its own clone, as the run of a profile has (bula/profile_clone.py), so params.yaml, the
figures and the outputs here stay as they are. An adapter is merged into the base first.

    python -m bula evaluate path/to/adapter
"""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from bula.commands.keep_runs import keep_finished
from bula.compared_files import write_untrained
from bula.errors import UserError
from bula.experiments import run_dvc
from bula.files import staged
from bula.model_files import check_adapter, check_model, is_adapter
from bula.param_types import Name
from bula.params import load_params
from bula.profile_clone import prepare

FILES = Path(".bula/evaluate")
RECEIVED = Path("models/received")
BASE = "models/base"
NAME_A_MODEL = "name a folder with adapter_config.json or config.json, or a .gguf file"


def refuse_unusable(model: Path, name: str) -> None:
    """Raise a UserError unless the model can be scored under the name."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        what = f"the name {name!r} has other signs than small letters, digits and _ . -"
        raise UserError("bula evaluate", what, "choose another --name") from error
    if name == "base":
        raise UserError("bula evaluate", "base is the untrained model", "choose another --name")
    if not model.exists():
        raise UserError(model, "it does not exist", NAME_A_MODEL)
    if is_adapter(model):
        check_adapter(model)
    else:
        check_model(model)


def place(model: Path, name: str) -> Path:
    """Return the path of the received model within the clone."""
    return RECEIVED / (f"{name}.gguf" if model.suffix == ".gguf" else name)


def write_params(file: Path, source: Path, variants: dict[str, Any]) -> None:
    """Write a params.yaml that scores only some variants, each beside the base.

    Raise UserError if `source` is missing or not valid.
    """
    load_params(source)
    yaml = YAML()
    content = yaml.load(source.read_text(encoding="utf-8"))
    content["variants"] = variants
    others = [name for name in variants if name != "base"]
    content["compare"]["pairs"] = [{"variant": name, "baseline": "base"} for name in others]
    content["review"]["gates"] = []
    with staged(file) as temporary, temporary.open("w", encoding="utf-8") as out:
        yaml.dump(content, out)
    load_params(file)


def start_clone(name: str, file: Path) -> Path:
    """Return the clone that runs a params.yaml whose variants need no training."""
    clone = prepare(f"evaluate-{name}", file)
    write_untrained(clone / "dvc.yaml")
    return clone


def copy_model(model: Path, target: Path) -> None:
    """Copy a received model into the clone, or link its files on one disk."""

    def link(source: str, destination: str) -> str:
        try:
            os.link(source, destination)
        except OSError:
            shutil.copy2(source, destination)
        return destination

    with staged(target) as temporary:
        if model.is_dir():
            shutil.copytree(model, temporary, copy_function=link)
        else:
            link(str(model), str(temporary))


def merge_adapter(adapter: Path, clone: Path, target: Path) -> None:
    """Merge a received adapter into the clone's base, as the stage merge does."""
    command = [sys.executable, "-m", "stages.merge", "--adapter", str(adapter.absolute())]
    command += ["--merged", str(target), "--metrics", str(FILES / "merge.json")]
    if subprocess.run(command, cwd=clone, check=False).returncode:
        raise UserError(adapter, "it could not be merged", "read the messages above")


def evaluate(
    model: Annotated[Path, typer.Argument(help="Adapter folder, model folder or .gguf file.")],
    name: Annotated[str, typer.Option(help="Name in the tables.")] = "received",
    params: Annotated[Path, typer.Option(help="Parameters and base.")] = Path("params.yaml"),
) -> None:
    """Score a received adapter or model in all tables, beside the base."""
    refuse_unusable(model, name)
    base = {"base": {"model": BASE, "engine": "transformers"}}
    file = FILES / f"{name}.yaml"
    target = place(model, name)
    engine = "llama.cpp" if model.suffix == ".gguf" else "transformers"
    write_params(file, params, base)
    clone = start_clone(name, file)
    if is_adapter(model):
        run_dvc("repro", "preprocess", folder=clone)
        merge_adapter(model, clone, target)
    else:
        copy_model(model, clone / target)
    write_params(file, params, base | {name: {"model": str(target), "engine": engine}})
    clone = start_clone(name, file)
    try:
        run_dvc("repro", "compare", folder=clone)
    finally:
        # An error of dvc repro is the one to show.
        with suppress(UserError):
            keep_finished(clone)
    print(f"evaluate: {name} beside base, report in {clone}/report/index.html")
