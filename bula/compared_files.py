"""List the files of each variant that compare and labels read.

DVC fetches a missing input only if it is an output of a stage. So dvc.yaml lists the files of the
variants of params.yaml for these stages, and not the folders that contain them. One stage of
dvc.yaml has no `foreach` for its inputs, so `python -m bula deps --write` writes them.
"""

import re
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bula.errors import UserError

# The stage that reads the files, and the list that gives each of the other stages its variants.
READER = "compare"
# The stages that make a model of this run.
TRAINING = ("train", "merge", "quantize")
VARIANTS = "${variants}"
KEY = "${key}"
# compare reads rows and figures, and labels reads rows. The files in metrics/speed/ have the times
# of one machine.
READERS = {READER: ("data/", "metrics/"), "labels": ("data/answers/", "data/verdicts/")}
UNREAD = "metrics/speed/"


def file_patterns(pipeline: Mapping[str, Any], reader: str) -> list[str]:
    """Return the paths that a stage reads, with `${key}` in place of the variant.

    They are the outputs of all stages that run once per variant.
    """
    patterns = []
    for stage in pipeline["stages"].values():
        if stage.get("foreach") != VARIANTS:
            continue
        for out in stage["do"].get("outs", []):
            # ruamel keeps the quotes of dvc.yaml in its own class of strings.
            path = str(out if isinstance(out, str) else next(iter(out)))
            if path.startswith(READERS[reader]) and not path.startswith(UNREAD):
                patterns.append(path)
    return patterns


def compared_files(pipeline: Mapping[str, Any], reader: str, variants: Iterable[str]) -> set[str]:
    """Return the files that a stage reads of some variants."""
    names = list(variants)
    patterns = file_patterns(pipeline, reader)
    return {pattern.replace(KEY, name) for pattern in patterns for name in names}


def listed_files(pipeline: Mapping[str, Any], reader: str) -> set[str]:
    """Return the files of variants that the pipeline lists for a stage."""
    found = set()
    for pattern in file_patterns(pipeline, reader):
        before, _, after = pattern.partition(KEY)
        path = re.compile(f"{re.escape(before)}[^/]+{re.escape(after)}")
        found |= {dep for dep in pipeline["stages"][reader]["deps"] if path.fullmatch(dep)}
    return found


def readers_in(pipeline: Mapping[str, Any]) -> list[str]:
    """Return the stages of a pipeline that read the files of all variants."""
    return [name for name in READERS if name in pipeline["stages"]]


def _list_variants(pipeline: Mapping[str, Any], reader: str, variants: list[str]) -> bool:
    """Correct the list of one stage, and return whether it changed."""
    listed = listed_files(pipeline, reader)
    wanted = compared_files(pipeline, reader, variants)
    if listed == wanted:
        return False
    deps = pipeline["stages"][reader]["deps"]
    deps[:] = sorted(wanted.union(deps) - (listed - wanted))
    return True


def with_variants(text: str, variants: Iterable[str]) -> str:
    """Return a dvc.yaml in which each reader lists the files of the variants.

    Comments, quotes and line lengths stay. A text without these stages stays as it is.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    pipeline = yaml.load(text)
    names = list(variants)
    changed = [_list_variants(pipeline, reader, names) for reader in readers_in(pipeline)]
    if not any(changed):
        return text
    written = StringIO()
    yaml.dump(pipeline, written)
    return written.getvalue()


def write_untrained(pipeline: Path) -> None:
    """Let no reader in a dvc.yaml read a file of the stages of training.

    A run whose variants all come from elsewhere then trains nothing.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(pipeline.read_text(encoding="utf-8"))
    trained = {path for name in TRAINING for path in _outputs(content["stages"][name])}
    for reader in readers_in(content):
        deps = content["stages"][reader]["deps"]
        deps[:] = [path for path in deps if path not in trained]
    with pipeline.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


def _outputs(stage: Mapping[str, Any]) -> list[str]:
    """Return the paths of all outputs and plots of a stage."""
    outputs = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
    # ruamel keeps the quotes of dvc.yaml in its own class of strings.
    return [str(out if isinstance(out, str) else next(iter(out))) for out in outputs]


def variant_names(params: Path) -> list[str]:
    """Return the names of the variants in a params.yaml, which may lack newer keys."""
    content = YAML(typ="safe").load(params.read_text(encoding="utf-8"))
    return list(content["variants"])


def write_variants(pipeline: Path, params: Path) -> None:
    """Correct the lists of a dvc.yaml for the variants of a params.yaml."""
    before = pipeline.read_text(encoding="utf-8")
    text = with_variants(before, variant_names(params))
    if text != before:
        pipeline.write_text(text, encoding="utf-8")


def check_compared_files(pipeline: Path, variants: Iterable[str]) -> None:
    """Raise a UserError unless each reader lists exactly the files of the variants.

    A pipeline without these stages lists none.
    """
    content = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))
    names = list(variants)
    for reader in readers_in(content):
        _check_listed(pipeline, content, reader, names)


def _check_listed(
    pipeline: Path, content: Mapping[str, Any], reader: str, variants: list[str]
) -> None:
    """Raise a UserError unless a stage lists exactly the files of the variants."""
    listed = listed_files(content, reader)
    wanted = compared_files(content, reader, variants)
    fix = "run `python -m bula deps --write`, and start again"
    if missing := sorted(wanted - listed):
        what = f"the stage {reader} does not list {missing[0]} ({len(missing)} such files)"
        raise UserError(pipeline, what, fix)
    if others := sorted(listed - wanted):
        what = f"the stage {reader} lists {others[0]}, whose variant is not in params.yaml"
        raise UserError(pipeline, what, fix)
