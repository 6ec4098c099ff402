"""Name the sources of rows as cards name them."""

from bula.model_cards import LANGUAGES
from bula.params import DataSource, DemoSource, FilesSource, HubSource, Params
from bula.publish.refusals import private_sources

DEMO = "bula demo corpus, the bula authors"
PRIVATE = "a private source"


def hide_private(params: Params) -> Params:
    """Return the parameters with private sources reduced to their licenses.

    The name of a private source can be that of a hospital, so no published file may have it.
    """
    private = private_sources(params)
    shown: list[DataSource] = []
    for source in params.ingest.sources:
        if source.name in private:
            # Only name and license of this source are read, so it needs no other field.
            source = FilesSource.model_construct(name=PRIVATE, license=source.license)
        shown.append(source)
    ingest = params.ingest.model_copy(update={"sources": shown})
    return params.model_copy(update={"ingest": ingest})


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
