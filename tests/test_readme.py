"""Check the hand-written lines of both READMEs against the pipeline."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT

READMES = ("README.md", "README.pt-BR.md")
# A row of the table about changed parameters that lists only stages.
ROW = re.compile(r"^\| `([a-z.0-9_]+)` \| ((?:`\w+`(?:, )?)+) \|$", re.MULTILINE)
ACTIVATION = "`. .venv/bin/activate`"
# Stages that do not run, because what they read stays equal: data/controls has no interval.
SPARED = {"rouge.resamples": {"bertscore_controls"}}


def read_readme(name: str) -> str:
    """Return the text of a README."""
    return (ROOT / name).read_text(encoding="utf-8")


def stages() -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml, those of each variant once for the variant base."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8").replace("${key}", "base")
    content = YAML(typ="safe").load(text)["stages"]
    return {name: entry.get("do", entry) for name, entry in content.items()}


def paths(entries: list[str | dict[str, Any]]) -> Iterator[str]:
    """Yield the paths in a list of outputs."""
    for entry in entries:
        yield entry if isinstance(entry, str) else next(iter(entry))


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies inside it."""
    return f"{path}/".startswith(f"{folder}/")


def rerun(key: str) -> set[str]:
    """Return the stages that DVC runs again after a change of one parameter.

    These are the stages with this key or a section around it, and all stages that read their
    outputs.
    """
    entries = stages()
    found = {
        name
        for name, entry in entries.items()
        if any(f"{key}.".startswith(f"{section}.") for section in entry["params"])
    }
    while True:
        written = [path for name in found for path in paths(entries[name]["outs"])]
        readers = {
            name
            for name, entry in entries.items()
            for path in entry["deps"]
            if any(is_within(path, out) or is_within(out, path) for out in written)
        }
        if readers <= found:
            return found
        found |= readers


def test_a_parameter_reruns_its_own_stage_and_those_that_read_its_outputs() -> None:
    # Only the tables and the report depend on the settings of compare's bootstrap.
    assert rerun("compare.resamples") == {"compare"}
    assert {"quantize", "likelihood", "compare"} <= rerun("quantize.types")


@pytest.mark.parametrize("name", READMES)
def test_the_readme_lists_the_stages_that_a_parameter_reruns(name: str) -> None:
    rows = ROW.findall(read_readme(name))
    assert "generate.max_new_tokens" in dict(rows)
    for key, listed in rows:
        assert set(re.findall(r"\w+", listed)) == rerun(key) - SPARED.get(key, set()), key


@pytest.mark.parametrize("name", READMES)
def test_the_readme_names_the_activation_once_and_before_the_first_command(name: str) -> None:
    text = read_readme(name)
    assert text.count(ACTIVATION) == 1
    assert ".venv/bin/python" not in text
    own = text.partition("<!-- end of badges -->")[2] or text
    shown = re.sub(r"<!--.*?-->", "", own)
    assert shown.index(ACTIVATION) < shown.index("python -m bula")
