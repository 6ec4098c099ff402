"""Write the page of a review kit as one HTML file.

The file contains its style and its scripts. Its security policy names them by their hashes and
allows no request.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from bula.labels.kit import Kit
from bula.labels.records import NOTE_CHARACTERS

TEMPLATES = Path(__file__).resolve().parents[2] / "templates/kit"
SCRIPTS = ("state.js", "rows.js", "keys.js", "page.js")


def render_page(kit: Kit) -> str:
    """Return the page of a kit, in Portuguese."""
    # jinja2 is imported here, so that `--help` does not wait for it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _join(["page.css"])
    script = _join(SCRIPTS)
    return environment.get_template("page.html").render(
        kit=kit.id,
        pairs=kit.pairs,
        note_characters=NOTE_CHARACTERS,
        # Both are files of this project, and contain no text of a run.
        style=Markup(style),
        script=Markup(script),
        style_hash=content_hash(style),
        script_hash=content_hash(script),
    )


def _join(names: Sequence[str]) -> str:
    """Return the text of template files, one after the other."""
    return "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)


def content_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy names an inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
