"""Fill the templates of the page."""

from pathlib import Path

from stages.compare.page.content import Content

# The folder belongs to the code, so that the stage also runs from another directory.
TEMPLATES = Path(__file__).parents[3] / "templates/report"


def render(content: Content) -> str:
    """Return the page as HTML, with its style and its script inlined.

    Jinja escapes all texts. Only the charts and the two files of this project are inserted as
    they are.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    texts = {name: _read(name) for name in ("style.css", "page.js")}
    page = environment.get_template("page.html.jinja")
    return page.render(content._asdict(), style=texts["style.css"], script=texts["page.js"])


def _read(name: str) -> str:
    """Return the text of a file beside the templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
