"""Check that DVC cannot push rows of a closed source by accident.

DVC pushes an output to the remote that dvc.yaml or a .dvc file names for it. An output without a
remote goes to the default remote or to the remote of `dvc push -r NAME`, which others may read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from bula.errors import UserError
from bula.params import DataSource

PIPELINE = Path("dvc.yaml")
SOURCES = Path("data/sources")
# Outputs that contain rows, or text and ids made from rows.
FROM_ROWS = ("data/", "report")
# Outputs with weights that are trained on rows. DVC cannot know whether they may be shared.
TRAINED = ("models/adapter", "models/merged", "models/gguf")


def refuse_unplaced(sources: list[DataSource]) -> None:
    """Raise UserError if rows of a closed source could leave.

    Rows can leave if an output or a tracked file names no remote.
    """
    closed = _closed_names(sources)
    if not closed:
        return
    unplaced = [f"{PIPELINE}: {path}" for path in unplaced_outputs(PIPELINE)]
    unplaced += [str(file) for file in unplaced_files(SOURCES)]
    if unplaced:
        what = f"these outputs name no remote, and may contain its rows: {', '.join(unplaced)}"
        fix = "write `remote: rows` there, or the remote that may have them (docs/remotes.md)"
        raise UserError(f"source {closed} (redistribution: forbidden)", what, fix)


def weights_note(sources: list[DataSource]) -> str:
    """Return a warning about weights that are trained on closed rows.

    Return an empty text if there are no such weights, or each output names its remote.
    """
    closed = _closed_names(sources)
    if not closed:
        return ""
    unplaced = ", ".join(unplaced_outputs(PIPELINE, TRAINED))
    if not unplaced:
        return ""
    return f"{unplaced} will be trained on {closed} and go to any remote (docs/remotes.md)"


def _closed_names(sources: list[DataSource]) -> str:
    """Return the names of the sources that forbid redistribution."""
    return ", ".join(source.name for source in sources if source.redistribution == "forbidden")


def unplaced_outputs(pipeline: Path, prefixes: tuple[str, ...] = FROM_ROWS) -> list[str]:
    """Return the outputs of a dvc.yaml that name no remote.

    Only outputs whose path starts with one of `prefixes` are checked.
    """
    found = []
    for stage in _read_yaml(pipeline).get("stages", {}).values():
        # A stage of a `foreach` is described under `do`.
        body = stage.get("do", stage)
        for path, options in _outputs(body.get("outs", [])):
            if path.startswith(prefixes) and not _is_placed(options):
                found.append(path)
    return found


def unplaced_files(folder: Path) -> list[Path]:
    """Return the .dvc files below a folder that name no remote."""
    found = []
    for file in sorted(folder.rglob("*.dvc")):
        outs = _read_yaml(file).get("outs", [])
        if not all(_is_placed(options) for options in outs):
            found.append(file)
    return found


def _outputs(outs: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the options of each entry of `outs`."""
    for out in outs:
        if isinstance(out, str):
            yield out, {}
        else:
            yield from out.items()


def _is_placed(options: dict[str, Any]) -> bool:
    """Return whether an output names its remote or is never pushed."""
    return bool(options.get("remote")) or options.get("push") is False


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file of DVC.

    The content of an absent file is empty.
    """
    if not path.is_file():
        return {}
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(path, "it is not YAML", "correct it, or restore it from git") from error
    return content if isinstance(content, dict) else {}
