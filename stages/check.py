"""Check params.yaml before DVC touches the paths that it names.

DVC hashes a stage's dependencies and removes its old outputs before the stage can refuse anything.
Names and models of the variants appear in these paths, so every stage that uses a variant depends
on this stage.

    python -m stages.check
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import run_stage
from bula.files import staged
from bula.params import load_params


def main(
    out: Annotated[Path, typer.Option(help="File that records the check.")] = Path(
        "data/checked.txt"
    ),
) -> None:
    """Check the parameters."""
    params = load_params()
    # The text never changes, so that stages that depend on it do not run again.
    with staged(out) as temporary:
        temporary.write_text("params.yaml is valid\n", encoding="utf-8")
    print(f"check: {len(params.variants)} variants, params.yaml is valid, in {out}")


if __name__ == "__main__":
    run_stage(main)
