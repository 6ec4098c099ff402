"""Name the sources of rows as cards name them."""

from bula.model_cards import LANGUAGES
from bula.params import DataSource, DemoSource, HubSource, Params

DEMO = "bula demo corpus, the bula authors"


def attribution(source: DataSource) -> str:
    """Return whom to name for the rows of a source, and their license."""
    place = source.name
    if isinstance(source, DemoSource):
        place = f"{source.name}: {DEMO}"
    elif isinstance(source, HubSource):
        place = f"{source.name}: {source.id}, revision {source.revision}"
    return f"{place} ({source.license})"


def language_names(params: Params) -> list[str]:
    """Return the languages of the training rows."""
    return [LANGUAGES.get(code, code) for code in params.preprocess.languages]
