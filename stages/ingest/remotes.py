"""Check that DVC cannot push rows of a closed source to a remote by being forgotten.

DVC pushes an output to the remote that dvc.yaml or a .dvc file names for it. An output that names
none goes to the default remote, or to the one of `dvc push -r NAME`, which others may read.
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
# Outputs that hold rows, or text and ids made from them.
FROM_ROWS = ("data/", "report")
# Outputs whose weights are trained on rows. Whether they may be shared is not for DVC to say.
TRAINED = ("models/adapter", "models/merged", "models/gguf")


def refuse_unplaced(sources: list[DataSource]) -> None:
    """Raise UserError if rows of a closed source could go to a remote that nobody named."""
    closed = [source.name for source in sources if source.redistribution == "forbidden"]
    if not closed:
        return
    unplaced = [f"{PIPELINE}: {path}" for path in unplaced_outputs(PIPELINE)]
    unplaced += [str(file) for file in unplaced_files(SOURCES)]
    if unplaced:
        what = f"these outputs name no remote, and may hold rows of it: {', '.join(unplaced)}"
        fix = "write `remote: rows` there, or the remote that may have them (docs/remotes.md)"
        raise UserError(f"source {', '.join(closed)} (redistribution: forbidden)", what, fix)


def weights_note(sources: list[DataSource]) -> str:
    """Return a warning if weights trained on rows of a closed source go to any remote, or an empty text."""
    closed = [source.name for source in sources if source.redistribution == "forbidden"]
    unplaced = unplaced_outputs(PIPELINE, TRAINED) if closed else []
    if not unplaced:
        return ""
    return f"{', '.join(unplaced)} will be trained on {', '.join(closed)} and go to any remote (docs/remotes.md)"


def unplaced_outputs(pipeline: Path, kinds: tuple[str, ...] = FROM_ROWS) -> list[str]:
    """Return the outputs of a dvc.yaml whose path begins with one of `kinds` and that name no remote."""
    found = []
    for stage in _read(pipeline).get("stages", {}).values():
        for path, options in _outputs(stage.get("do", stage).get("outs", [])):
            if path.startswith(kinds) and not _is_placed(options):
                found.append(path)
    return found


def unplaced_files(folder: Path) -> list[Path]:
    """Return the .dvc files below a folder whose data may go to any remote."""
    files = sorted(folder.rglob("*.dvc"))
    return [file for file in files if not all(map(_is_placed, _read(file).get("outs", [])))]


def _outputs(outs: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the options of each entry of `outs`."""
    for out in outs:
        if isinstance(out, str):
            yield out, {}
        else:
            yield from out.items()


def _is_placed(options: dict[str, Any]) -> bool:
    """Return whether an output names its remote, or is never pushed."""
    return bool(options.get("remote")) or options.get("push") is False


def _read(path: Path) -> dict[str, Any]:
    """Return a YAML file of DVC; an absent one is empty."""
    if not path.is_file():
        return {}
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(path, "it is no YAML", "correct it, or take it from git again") from error
    return content if isinstance(content, dict) else {}
