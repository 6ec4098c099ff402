"""Find files and models that params.yaml names and nobody has.

DVC says only "No such file or directory" about them, after hours at the last stages.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bula.errors import UserError
from bula.params import (
    DataSource,
    DemoSource,
    DirectoryModel,
    FilesSource,
    LocalTask,
    Params,
    TaskSource,
)

# Directories of models that the pipeline writes; bula/params.py checks the names of GGUF files.
WRITTEN_MODELS = ("models/base", "models/merged", "models/judge", "models/encoder")
# The folders whose files the pipeline writes, too.
WRITTEN_FOLDERS = ("models/gguf/", "models/judge/", "models/prefer/")


class NamedInput(NamedTuple):
    """A file or folder that params.yaml names."""

    key: str
    """Where params.yaml names it."""
    path: str
    fix: str
    """How to mend that it is missing."""


def named_inputs(params: Params) -> list[NamedInput]:
    """Return the files and folders that must exist before a run."""
    inputs = [*_sources(params), *_models(params)]
    files = {
        "calibrate.gold": params.calibrate.gold,
        "calibrate.attacks": params.calibrate.attacks,
        "safety.questions": params.safety.questions,
        "safety.labels": params.safety.labels,
    }
    for name, entry in params.prefer.items():
        files[f"prefer.{name}.pairs"] = entry.pairs
    if params.ingest.chat_template:
        files["ingest.chat_template"] = params.ingest.chat_template
    for path in params.labels.files:
        files[f"labels.files, {path}"] = path
    for key, path in files.items():
        inputs.append(NamedInput(key, path, f"correct {key} in params.yaml, or run `dvc pull`"))
    return inputs


def _sources(params: Params) -> Iterator[NamedInput]:
    """Yield the paths of sources and benchmarks."""
    sections: dict[str, Sequence[DataSource | TaskSource]] = {
        "sources": params.ingest.sources,
        "benchmarks": params.ingest.benchmarks,
    }
    for section, sources in sections.items():
        for source in sources:
            if isinstance(source, DemoSource | FilesSource | LocalTask):
                fix = f"correct `path` of {source.name} in params.yaml, or run `dvc pull`"
                yield NamedInput(f"ingest.{section}, {source.name}", source.path, fix)


def _models(params: Params) -> Iterator[NamedInput]:
    """Yield the paths of models that no stage writes."""
    named = {
        "ingest.base": params.ingest.base,
        "ingest.judge": params.ingest.judge,
        "bertscore.encoder": params.bertscore.encoder,
        "preprocess.encoder": params.preprocess.encoder,
        "privacy.names": params.privacy.names,
    }
    for key, source in named.items():
        if isinstance(source, DirectoryModel):
            yield NamedInput(key, source.path, "correct the model's `path` in params.yaml")
    written = "models/base, models/merged or a file of models/gguf/"
    for name, variant in params.variants.items():
        path = os.path.normpath(variant.model)
        if path not in WRITTEN_MODELS and not path.startswith(WRITTEN_FOLDERS):
            fix = f"no stage writes it: name {written}, or `dvc pull` a model of your own"
            yield NamedInput(f"variants.{name}.model", variant.model, fix)


def refuse_missing(item: NamedInput) -> None:
    """Raise a UserError if neither this machine nor DVC has a file."""
    path = Path(item.path)
    tracked = [Path(f"{place}.dvc") for place in (path, *path.parents)]
    if not path.exists() and not any(file.exists() for file in tracked):
        raise UserError(item.path, "it does not exist", item.fix)


def refuse_folder_without_weights(name: str, model: str) -> None:
    """Raise a UserError if the folder of an engine openai's variant has no weights.

    A folder that does not exist yet is an output of a later stage.
    """
    folder = Path(model)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    what = (
        f"{folder} has no weights (*.safetensors), and an API gives no log-likelihoods, so "
        "likelihood and benchmark cannot score this variant"
    )
    fix = "add the weights that the server serves, or remove the variant"
    raise UserError(f"variants.{name}", what, fix)
