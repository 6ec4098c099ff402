"""Draw the pipeline's graph in README.md with a box for related stages.

Variants of a stage share a box. The graph omits transitive arrows. `dvc dag` draws every stage.

Run `python -m bula graph --write`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from bula.commands.generated import read_text, replace_section, update

FILE = Path("README.md")
START = "<!-- graph: written by `python -m bula graph --write` -->\n```mermaid\n"
END = "```\n<!-- end of graph -->"
# Stages that share a box, so that a reader sees the graph at once. Other stages have their own box.
BOXES = (
    ("check", "models", "dry_run"),
    ("merge", "quantize"),
    ("generate", "safety"),
    ("rouge", "bertscore"),
    ("controls", "bertscore_controls"),
    ("calibrate", "judge", "labels"),
)


def dependencies(folder: Path) -> set[tuple[str, str]]:
    """Return all pairs (stage, stage that reads its outputs)."""
    # Imported here because DVC takes a second to load.
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        edges = [(first.addressing, then.addressing) for then, first in repo.index.graph.edges]
    return {(_stage_name(first), _stage_name(then)) for first, then in edges}


def _stage_name(address: str) -> str:
    """Return the name of a stage without its variant."""
    return address.rpartition(":")[2].partition("@")[0]


def collapse(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Replace stages by their boxes, and leave out the arrows within a box."""
    box = {stage: "_".join(stages) for stages in BOXES for stage in stages}
    renamed = {(box.get(first, first), box.get(then, then)) for first, then in pairs}
    return {(first, then) for first, then in renamed if first != then}


def mermaid(pairs: set[tuple[str, str]]) -> str:
    """Return the graph in Mermaid's language, without transitive arrows."""
    import networkx

    reduced: Any = networkx.transitive_reduction(networkx.DiGraph(sorted(collapse(pairs))))
    # Stages that read from the same stages share a line.
    readers: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(reduced.nodes):
        sources = tuple(sorted(reduced.predecessors(name)))
        if sources:
            readers.setdefault(sources, []).append(name)
    arrows = [f"  {' & '.join(a)} --> {' & '.join(b)}\n" for a, b in sorted(readers.items())]
    shared = {"_".join(stages): ", ".join(stages) for stages in BOXES}
    labels = [f'{box}["{text}"]' for box, text in shared.items() if box in reduced]
    # The README has few lines, so one line has all labels.
    first = [f"  {' & '.join(labels)}\n"] if labels else []
    return "flowchart LR\n" + "".join(first + arrows)


def graph(
    write: Annotated[bool, typer.Option("--write", help="Change README.md.")] = False,
) -> None:
    """Compare the graph in README.md with dvc.yaml, or write it."""
    text = read_text(FILE)
    drawn = mermaid(dependencies(Path()))
    update(
        FILE,
        replace_section(str(FILE), text, (START, END), drawn),
        command="graph",
        write=write,
    )
