"""Draw the pipeline's graph in README.md, one box per stage.

Variants of a stage share a box. The graph omits transitive arrows.

Run `python -m bula graph --write`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from bula.commands.generated import read_text, replace_section, update

FILE = Path("README.md")
START = "<!-- graph: written by `python -m bula graph --write` -->\n```mermaid\n"
END = "```\n<!-- end of graph -->"


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


def mermaid(pairs: set[tuple[str, str]]) -> str:
    """Return the graph in Mermaid's language, without transitive arrows."""
    import networkx

    reduced: Any = networkx.transitive_reduction(networkx.DiGraph(sorted(pairs)))
    # Stages that read from the same stages share a line.
    readers: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(reduced.nodes):
        sources = tuple(sorted(reduced.predecessors(name)))
        if sources:
            readers.setdefault(sources, []).append(name)
    arrows = [f"  {' & '.join(a)} --> {' & '.join(b)}\n" for a, b in sorted(readers.items())]
    return "flowchart LR\n" + "".join(arrows)


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
