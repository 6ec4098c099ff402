"""List the files of each variant that the stage compare reads.

DVC fetches a missing input only if it is an output of a stage. So dvc.yaml lists the files of the
variants of params.yaml for the stage compare, and not the folders that contain them. One stage of
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
# compare reads rows and figures. The files in metrics/speed/ have the times of one machine.
READ = ("data/", "metrics/")
UNREAD = "metrics/speed/"


def file_patterns(pipeline: Mapping[str, Any]) -> list[str]:
    """Return the paths that compare reads, with `${key}` in place of the variant.

    They are the outputs of all stages that run once per variant.
    """
    patterns = []
    for stage in pipeline["stages"].values():
        if stage.get("foreach") != VARIANTS:
            continue
        for out in stage["do"].get("outs", []):
            # ruamel keeps the quotes of dvc.yaml in its own class of strings.
            path = str(out if isinstance(out, str) else next(iter(out)))
            if path.startswith(READ) and not path.startswith(UNREAD):
                patterns.append(path)
    return patterns


def compared_files(pipeline: Mapping[str, Any], variants: Iterable[str]) -> set[str]:
    """Return the files that compare reads of some variants."""
    names = list(variants)
    return {pattern.replace(KEY, name) for pattern in file_patterns(pipeline) for name in names}


def listed_files(pipeline: Mapping[str, Any]) -> set[str]:
    """Return the files of variants that the pipeline lists for compare."""
    found = set()
    for pattern in file_patterns(pipeline):
        before, _, after = pattern.partition(KEY)
        path = re.compile(f"{re.escape(before)}[^/]+{re.escape(after)}")
        found |= {dep for dep in pipeline["stages"][READER]["deps"] if path.fullmatch(dep)}
    return found


def with_variants(text: str, variants: Iterable[str]) -> str:
    """Return the text of dvc.yaml in which compare lists the files of the variants.

    Comments, quotes and line lengths stay. A text without the stage compare stays as it is.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    pipeline = yaml.load(text)
    if READER not in pipeline["stages"]:
        return text
    listed = listed_files(pipeline)
    wanted = compared_files(pipeline, variants)
    if listed == wanted:
        return text
    deps = pipeline["stages"][READER]["deps"]
    deps[:] = sorted(wanted.union(deps) - (listed - wanted))
    written = StringIO()
    yaml.dump(pipeline, written)
    return written.getvalue()


def write_untrained(pipeline: Path) -> None:
    """Let compare in a dvc.yaml read no file of the stages of training.

    A run whose variants all come from elsewhere then trains nothing.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(pipeline.read_text(encoding="utf-8"))
    trained = {path for name in TRAINING for path in _outputs(content["stages"][name])}
    deps = content["stages"][READER]["deps"]
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
    """Let compare in a dvc.yaml list the files of the variants of a params.yaml."""
    before = pipeline.read_text(encoding="utf-8")
    text = with_variants(before, variant_names(params))
    if text != before:
        pipeline.write_text(text, encoding="utf-8")


def check_compared_files(pipeline: Path, variants: Iterable[str]) -> None:
    """Raise a UserError unless compare lists exactly the files of the variants.

    A pipeline without the stage compare lists none.
    """
    content = YAML(typ="safe").load(pipeline.read_text(encoding="utf-8"))
    if READER not in content["stages"]:
        return
    listed = listed_files(content)
    wanted = compared_files(content, variants)
    fix = "run `python -m bula deps --write`, and start again"
    if missing := sorted(wanted - listed):
        what = f"the stage compare does not list {missing[0]} ({len(missing)} such files)"
        raise UserError(pipeline, what, fix)
    if others := sorted(listed - wanted):
        what = f"the stage compare lists {others[0]}, whose variant is not in params.yaml"
        raise UserError(pipeline, what, fix)
