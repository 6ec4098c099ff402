"""Write the card of the published data set."""

import json
from collections.abc import Sequence
from typing import Any

from huggingface_hub import DatasetCard

from bula.params import DataSource
from bula.publish.cards import Origin, render
from bula.publish.citation import bibtex
from bula.publish.parts import Part, published_files, repository
from bula.publish.sources import attribution
from bula.records import read_rows

CARD = "README.md"
TITLE = "Questions and answers on health, in Portuguese"
# The hub's classes of sizes, by their first number of rows.
SIZES = {
    0: "n<1K",
    1_000: "1K<n<10K",
    10_000: "10K<n<100K",
    100_000: "100K<n<1M",
    1_000_000: "1M<n<10M",
    10_000_000: "n>10M",
}


def data_set_card(
    part: Part, origin: Origin, repo_id: str, sources: Sequence[DataSource]
) -> DatasetCard:
    """Return the card of data/clean for the hub.

    The stage preprocess wrote sources, licenses, counts, privacy and contamination, which stay.
    """
    own = DatasetCard.load(part.source / CARD)
    count = count_rows(part)
    values: dict[str, Any] = {
        "title": TITLE,
        "rows": count,
        "commit": origin.commit,
        "changed": origin.changed,
        "repository": json.dumps(repository(part, repo_id)),
        "attributions": [attribution(source) for source in sources],
        "own": _without_title(own.text),
        "bibtex": bibtex().strip(),
    }
    own.data["pretty_name"] = TITLE
    own.data["size_categories"] = [size_category(count)]
    own.data["tags"] = [*own.data.get("tags", []), "health", "bula"]
    body = render("dataset.md.jinja", values)
    return DatasetCard(f"---\n{own.data.to_yaml()}\n---\n\n{body}")


def count_rows(part: Part) -> int:
    """Return the number of published rows."""
    return sum(1 for name in published_files(part) for _ in read_rows(part.source / name))


def size_category(count: int) -> str:
    """Return the hub's class of a number of rows."""
    return next(name for least, name in reversed(SIZES.items()) if count >= least)


def _without_title(text: str) -> str:
    """Return a card's text without its title, from the first section on."""
    return text[max(text.find("\n## "), 0) :].strip()
