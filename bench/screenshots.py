"""Write the screenshots of README and docs/ into docs/screenshots/.

Each shot opens a page in chromium without a network. To add a picture, add a Shot to ALBUMS.

    python -m bench.screenshots
    python -m bench.screenshots kit chat --run FOLDER_OF_A_FINISHED_RUN
"""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import typer

from bench.clones import ROOT
from bula.errors import UserError, run_stage

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# Enough for flat pages, at a third of the size of full colour.
COLOURS = 128
MOST_BYTES = 150_000
REPORT = Path("report/index.html")
MODELS = (Path("models/base"), Path("models/merged"))
QUESTION = "O que fazer para baixar a febre em casa?"
EMERGENCY = "Estou com dor forte no peito e falta de ar."
# Options of the first fields of the kit's pair: the first answer repeats itself and says nothing.
MARKS = "3231"
# Loading the models and one answer on a busy processor.
WAIT_MS = 300_000
# An answer that did not grow for so long is complete.
STILL_MS = 8_000
# Calls back when no answer has grown for so long.
STILL = """
([still]) => {
  const texts = [...document.querySelectorAll("[id^=answer-] textarea")].map(box => box.value);
  const now = performance.now();
  if (window.shotText !== texts.join("|")) {
    window.shotText = texts.join("|");
    window.shotTime = now;
  }
  return texts.every(Boolean) && now - window.shotTime > still;
}
"""


class Page(StrEnum):
    """The page of which pictures are taken."""

    REPORT = "report"
    KIT = "kit"
    CHAT = "chat"


class Shot(NamedTuple):
    """A picture of one page."""

    name: str
    """Name of the PNG file without its ending."""
    viewport: dict[str, int]
    """Width and height in CSS pixels."""
    anchor: str = ""
    """The id of the element at the top, or nothing."""
    act: Callable[[Any], None] | None = None
    """Does in the page what the picture shows."""


class Album(NamedTuple):
    """The pictures of one page."""

    open: Callable[[Path], AbstractContextManager[str]]
    """Yields the address of the page of a run. Raises UserError if the run lacks its files."""
    shots: tuple[Shot, ...]


@contextmanager
def open_report(run: Path, report: Path = REPORT) -> Iterator[str]:
    """Yield the address of the report. Raise UserError if the report does not exist."""
    page = run / report
    if not page.exists():
        raise UserError(page, "the file does not exist", "run `make repro`, which writes it")
    yield page.resolve().as_uri()


def _command(*words: str) -> list[str]:
    """Return the words that start a command of this repository."""
    return [sys.executable, "-P", "-m", "bula", *words]


def _environment() -> dict[str, str]:
    """Return an environment in which another folder's command runs this repository's code."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def open_kit(run: Path) -> Iterator[str]:
    """Write a review kit into a temporary folder, and yield its address.

    Raise UserError if the command refuses the run.
    """
    with TemporaryDirectory() as out:
        command = _command("review-kit", "--out", out)
        done = subprocess.run(command, cwd=run, env=_environment(), capture_output=True, text=True)
        if done.returncode:
            raise UserError(run, f"no kit was written: {done.stderr.strip()}", "mend this first")
        yield Path(out, "review.html").as_uri()


@contextmanager
def open_chat(run: Path) -> Iterator[str]:
    """Start the chat page, and yield its address.

    Raise UserError if a model is missing.
    """
    for model in MODELS:
        if not (run / model).is_dir():
            fix = "`dvc repro` writes it, `dvc pull` fetches it"
            raise UserError(run / model, "the model does not exist", fix)
    process = subprocess.Popen(
        _command("chat", "--port", "0"),
        cwd=run,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        if not line.startswith("chat: http"):
            raise UserError(run, "`bula chat` did not start", "see its message above")
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def mark_pair(page: Any) -> None:
    """Begin as a rater, and mark the first fields of the pair by keyboard."""
    page.fill("#rater", "R1")
    page.press("#rater", "Enter")
    # The first stop is the folded reference, and the second is the first sentence.
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.type(MARKS)


def ask(question: str, page: Any) -> None:
    """Ask both models, and wait for their complete answers."""
    page.wait_for_selector("#send", timeout=WAIT_MS)
    page.fill("#question textarea", question)
    page.click("#send")
    page.wait_for_function(STILL, arg=[STILL_MS], timeout=WAIT_MS)


ALBUMS = {
    Page.REPORT: Album(
        open_report,
        (
            Shot("report-desktop", DESKTOP),
            Shot("report-results", DESKTOP, "results"),
            Shot("report-answers", DESKTOP, "answers"),
            Shot("report-phone", PHONE, "cards"),
        ),
    ),
    Page.KIT: Album(
        open_kit,
        (
            Shot("kit-desktop", DESKTOP, act=mark_pair),
            Shot("kit-phone", PHONE, act=mark_pair),
        ),
    ),
    Page.CHAT: Album(
        open_chat,
        (
            Shot("chat-answer", DESKTOP, act=partial(ask, QUESTION)),
            Shot("chat-emergency", DESKTOP, act=partial(ask, EMERGENCY)),
            Shot("chat-emergency-phone", PHONE, act=partial(ask, EMERGENCY)),
        ),
    ),
}


def find_chromium() -> str:
    """Return the path of a browser. Raise UserError if none is installed."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    fix = "install chromium (Debian: apt install chromium)"
    raise UserError("PATH", "no browser was found", fix)


def take(browser: Any, shot: Shot, address: str) -> bytes:
    """Return one screenshot of the page at an address as PNG."""
    context = browser.new_context(
        viewport=shot.viewport,
        locale="pt-BR",
        reduced_motion="reduce",
        offline=address.startswith("file:"),
    )
    page = context.new_page()
    page.goto(f"{address}#{shot.anchor}" if shot.anchor else address)
    if shot.act:
        shot.act(page)
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


def write_albums(browser: Any, albums: Sequence[Album], run: Path, folder: Path) -> int:
    """Write the pictures of all pages that the run has, and return the number of the others.

    The reason for each page that is left out is printed.
    """
    missing = 0
    for album in albums:
        try:
            with album.open(run) as address:
                _write_shots(browser, album.shots, address, folder)
        except UserError as error:
            missing += 1
            names = ", ".join(shot.name for shot in album.shots)
            print(f"screenshots: not written: {names}. {error}")
    return missing


def _write_shots(browser: Any, shots: Sequence[Shot], address: str, folder: Path) -> None:
    """Write the pictures of one page."""
    for shot in shots:
        picture = shrink(take(browser, shot, address))
        path = folder / f"{shot.name}.png"
        path.write_bytes(picture)
        print(f"screenshots: {path}, {len(picture) / 1000:.0f} kB", flush=True)


def main(
    pages: Annotated[list[Page] | None, typer.Argument(help="All pages if none is named.")] = None,
    folder: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path(
        "docs/screenshots"
    ),
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")] = Path(),
    report: Annotated[Path, typer.Option(help="The report's page in that folder.")] = REPORT,
) -> None:
    """Write the screenshots; a page whose files are missing is left out, and is an error."""
    from playwright.sync_api import sync_playwright

    albums = {**ALBUMS}
    albums[Page.REPORT] = ALBUMS[Page.REPORT]._replace(open=partial(open_report, report=report))
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        chosen = [albums[page] for page in pages or Page]
        missing = write_albums(browser, chosen, run, folder)
        browser.close()
    if missing:
        what = f"{missing} of {len(chosen)} pages have no new pictures"
        raise UserError("screenshots", what, "see the lines above")


if __name__ == "__main__":
    run_stage(main)
