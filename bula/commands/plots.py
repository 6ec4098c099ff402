"""Write DVC's page of plots, to be opened without a network.

DVC's own page loads Vega's scripts from a server. This page contains them.

Run `python -m bula plots`, or `make plots`.
"""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from bula.errors import UserError
from bula.files import staged

# DVC replaces the two placeholders. Its third one, {scripts}, would load scripts from a server.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Plots of bula</title>
{{refresh_tag}}
<style>body {{ font-family: sans-serif; margin: 1rem; }} img {{ max-width: 100%; }}</style>
<script>
{vega}
</script>
</head>
<body>
<h1>Plots of bula</h1>
{{plot_divs}}
</body>
</html>
"""
TEMPLATE = "template.html"
# The names that DVC's charts call.
EXPORTS = "window.vegaEmbed = vegaEmbed; window.vega = vega; window.vegaLite = vegaLite;"


def vega_scripts() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    # Imported here because the package takes a second to load.
    import vl_convert

    script: str = vl_convert.javascript_bundle(EXPORTS)
    # A script element ends at these letters, also inside a JavaScript string.
    return script.replace("</script", "<\\/script")


def write_template(folder: Path) -> Path:
    """Write the template of the page into a folder, and return its path."""
    path = folder / TEMPLATE
    with staged(path) as temporary:
        temporary.write_text(PAGE.format(vega=vega_scripts()), encoding="utf-8")
    return path


def plots(
    folder: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("dvc_plots"),
    revisions: Annotated[
        list[str] | None, typer.Argument(help="Commits or experiments to compare.")
    ] = None,
) -> None:
    """Write the curves and pictures of a run, or of several, as one page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    page.unlink(missing_ok=True)
    template = write_template(folder)
    try:
        code = draw(template, folder, revisions or [])
    finally:
        template.unlink()
    if code:
        raise typer.Exit(code)
    if not page.exists():
        raise UserError("plots/", "DVC found no plots", "run `make repro`, which writes them")
    print(f"plots: wrote {page}")


def draw(template: Path, folder: Path, revisions: list[str]) -> int:
    """Let DVC write the page into a folder, and return DVC's exit code."""
    command = ["dvc", "plots", "diff" if revisions else "show", *revisions]
    command += ["--html-template", str(template.absolute()), "--out", str(folder)]
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL)
    except FileNotFoundError as error:
        fix = "activate the environment (`. .venv/bin/activate`), or run `make plots`"
        raise UserError("dvc", "the program is not on PATH", fix) from error
