"""Check the pictures that `make screenshots` writes."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.clones import ROOT
from bench.screenshots import MOST_BYTES, PHONE, SHOTS, Shot, shrink, take
from bula.errors import UserError


def test_a_shot_has_the_size_of_its_screen(tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "page.html"
    page.write_text("<body style='background: #0b5a70'><p id=here>Olá</p>", encoding="utf-8")
    picture = shrink(take(browser, Shot("page", page, "here", PHONE, "make repro")))
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    assert image.size == (390, 844)
    assert image.getpixel((380, 800)) == (0x0B, 0x5A, 0x70)


def test_a_missing_page_names_the_command_that_writes_it(tmp_path: Path) -> None:
    shot = Shot("page", tmp_path / "page.html", "", PHONE, "make repro")
    with pytest.raises(UserError, match="Run `make repro`, which writes it"):
        take(None, shot)


def test_each_picture_of_the_readme_is_small_and_has_a_shot() -> None:
    pictures = sorted((ROOT / "docs/screenshots").glob("*.png"))
    names = {shot.name for shot in SHOTS}
    assert {picture.stem for picture in pictures} <= names
    assert all(picture.stat().st_size <= MOST_BYTES for picture in pictures)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"docs/screenshots/([a-z-]+)\.png", readme):
        assert name in {picture.stem for picture in pictures}
