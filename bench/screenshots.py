"""Write the screenshots of README into docs/screenshots/.

Each shot opens a page in chromium without a network. To add a page, add a Shot.

    python -m bench.screenshots
"""

import io
import shutil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from bula.errors import UserError, run_stage

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# Enough for flat pages, at a third of the size of full colour.
COLOURS = 128
MOST_BYTES = 300_000
REPORT = Path("report/index.html")


class Shot(NamedTuple):
    """A picture of one page."""

    name: str
    """Name of the PNG file without its ending."""
    page: Path
    """A local HTML file."""
    anchor: str
    """The id of the element at the top, or nothing."""
    viewport: dict[str, int]
    """Width and height in CSS pixels."""
    command: str
    """The command that writes the page."""


SHOTS = (
    Shot("report-desktop", REPORT, "", DESKTOP, "make repro"),
    Shot("report-results", REPORT, "results", DESKTOP, "make repro"),
    Shot("report-answers", REPORT, "answers", DESKTOP, "make repro"),
    Shot("report-phone", REPORT, "cards", PHONE, "make repro"),
)


def find_chromium() -> str:
    """Return the path of a browser. Raise UserError if none is installed."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    fix = "install chromium (Debian: apt install chromium)"
    raise UserError("PATH", "no browser was found", fix)


def take(browser: Any, shot: Shot) -> bytes:
    """Return one screenshot as PNG. Raise UserError if the page does not exist."""
    if not shot.page.exists():
        fix = f"run `{shot.command}`, which writes it"
        raise UserError(shot.page, "the file does not exist", fix)
    context = browser.new_context(
        viewport=shot.viewport, locale="pt-BR", reduced_motion="reduce", offline=True
    )
    page = context.new_page()
    address = shot.page.resolve().as_uri()
    page.goto(f"{address}#{shot.anchor}" if shot.anchor else address)
    picture: bytes = page.screenshot()
    context.close()
    return picture


def shrink(picture: bytes) -> bytes:
    """Return a PNG with few colours. Raise ValueError if it is still too large."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    few = image.quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="PNG", optimize=True)
    size = len(buffer.getvalue())
    if size > MOST_BYTES:
        raise ValueError(f"the screenshot has {size} bytes, and at most {MOST_BYTES} are allowed")
    return buffer.getvalue()


def main(
    folder: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path(
        "docs/screenshots"
    ),
    report: Annotated[Path, typer.Option(help="The report's page.")] = REPORT,
) -> None:
    """Write all screenshots whose pages exist; a missing page is an error."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        for shot in SHOTS:
            page = report if shot.page == REPORT else shot.page
            picture = shrink(take(browser, shot._replace(page=page)))
            path = folder / f"{shot.name}.png"
            path.write_bytes(picture)
            print(f"screenshots: {path}, {len(picture) / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    run_stage(main)
