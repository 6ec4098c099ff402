"""Check the pictures that `make screenshots` writes."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.clones import ROOT
from bench.screenshots import (
    ALBUMS,
    DESKTOP,
    MOST_BYTES,
    PHONE,
    Album,
    Page,
    Shot,
    mark_pair,
    open_chat,
    open_kit,
    open_report,
    shrink,
    take,
    write_albums,
)
from bula.errors import UserError
from tests.review_kit_run import small_kit, write_page

BLUE = (0x0B, 0x5A, 0x70)


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Return the address of a blue page."""
    path = tmp_path / "page.html"
    path.write_text("<body style='background: #0b5a70'><p id=here>Olá</p>", encoding="utf-8")
    return path.as_uri()


def colour(picture: bytes, place: tuple[int, int]) -> Any:
    return Image.open(io.BytesIO(picture)).convert("RGB").getpixel(place)


def test_a_shot_has_the_size_of_its_screen(browser: Any, page: str) -> None:
    picture = shrink(take(browser, Shot("page", PHONE, "here"), page))
    assert Image.open(io.BytesIO(picture)).size == (390, 844)
    assert colour(picture, (380, 800)) == BLUE


def test_a_shot_shows_what_was_done_in_the_page(browser: Any, page: str) -> None:
    def redden(shown: Any) -> None:
        shown.evaluate("document.body.style.background = '#ff0000'")

    assert colour(take(browser, Shot("page", DESKTOP, act=redden), page), (1270, 800)) == (
        255,
        0,
        0,
    )


def test_some_marks_of_the_kit_are_set(browser: Any, tmp_path: Path) -> None:
    found: list[int] = []

    def mark(shown: Any) -> None:
        mark_pair(shown)
        found.append(shown.locator(".pair:not([hidden]) input:checked").count())

    take(browser, Shot("kit", DESKTOP, act=mark), write_page(tmp_path, small_kit()))
    assert found == [4]


def test_a_missing_report_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run `make repro`, which writes it"), open_report(tmp_path):
        pass


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "models/base").mkdir(parents=True)
    with pytest.raises(UserError, match="models/merged: the model does not exist"):
        open_chat(tmp_path).__enter__()


def test_a_kit_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no kit was written: .*params\.yaml"):
        open_kit(tmp_path).__enter__()


def test_the_other_pages_are_written_without_the_models(
    browser: Any, page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def open_page(run: Path) -> Iterator[str]:
        yield page

    albums = [ALBUMS[Page.CHAT], Album(open_page, (Shot("blue", PHONE),))]
    assert write_albums(browser, albums, tmp_path, tmp_path) == 1
    assert (tmp_path / "blue.png").exists()
    printed = capsys.readouterr().out
    assert "not written: chat-answer, chat-emergency" in printed
    assert "models/base: the model does not exist" in printed


def test_each_picture_is_small_has_a_shot_and_is_shown() -> None:
    pictures = sorted((ROOT / "docs/screenshots").glob("*.png"))
    names = {shot.name for album in ALBUMS.values() for shot in album.shots}
    assert {picture.stem for picture in pictures} == names
    assert all(picture.stat().st_size <= MOST_BYTES for picture in pictures)
    for text in ("README.md", "docs/usage.md", "docs/clinicos.md"):
        shown = re.findall(r"screenshots/([a-z-]+)\.png", (ROOT / text).read_text(encoding="utf-8"))
        assert shown
        assert set(shown) <= names
