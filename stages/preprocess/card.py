"""Write the data set card for the Hugging Face hub.

`load_dataset` on the folder of the card loads its splits.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bula.escaping import markdown
from bula.params import FilesSource, Params
from bula.privacy import PERSONAL_DATA_KINDS
from bula.records import SET_NAMES

MATRIX_COLUMNS = (
    "items",
    "items_shared_run",
    "items_near_duplicate",
    "train_rows",
    "train_rows_left",
)
MATRIX_HEADINGS = (
    "train against",
    "items",
    "sharing a run",
    "near-duplicate",
    "training rows found",
    "left",
)
SOURCE_HEADINGS = ("source", "kind", "license", "redistribution", "names", "rows")


class Figures(NamedTuple):
    """The figures of the card: rows per source, metrics and the contamination matrix."""

    sources: Counter[str]
    metrics: dict[str, dict[str, int | float]]
    matrix: dict[str, dict[str, int]]


def data_set_card(params: Params, figures: Figures, splits: Iterable[str]) -> str:
    """Return the card: a YAML header, notices and one section per topic."""
    sections = (
        _header(params),
        "# Questions and answers on health, in Portuguese\n\n",
        "Made by `dvc repro` for research on tuning; not medical advice.\n\n",
        _redistribution_notice(params, figures.sources) + names_notice(params),
        _section("Sources", _source_table(params, figures.sources)),
        _section("Splits", _split_table(figures.metrics, splits)),
        _section("Language", _language(params)),
        _section("Refused rows", _refusal_table(figures.metrics["quarantine"])),
        _section("Personal data", _personal_data(params, figures.metrics["privacy"])),
        _section("Contamination", _contamination(params, figures.matrix)),
    )
    return "".join(sections)


def _header(params: Params) -> str:
    """Return the YAML header with splits, licenses and tags."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in ("train", "dev", *SET_NAMES):
        lines += [f"  - split: {split}", f"    path: {split_path(split)}"]
    lines += ["language:", "- pt", "license:"]
    licenses = {source.license for source in params.ingest.sources}
    lines += [f'- "{license_name}"' for license_name in sorted(licenses)]
    lines += ["task_categories:", "- question-answering", "- text-generation"]
    lines += ["tags:", "- medical", "---"]
    return "\n".join(lines) + "\n\n"


def split_path(split: str) -> str:
    """Return the file of a split, relative to the card."""
    folder = "validation/" if split in SET_NAMES else ""
    return f"{folder}{split}.jsonl"


def _redistribution_notice(params: Params, sources: Counter[str]) -> str:
    """Return the notice on sources that may not be redistributed."""
    closed = [
        source.name
        for source in params.ingest.sources
        if source.redistribution == "forbidden" and sources[source.name]
    ]
    if not closed:
        return ""
    names = markdown(", ".join(closed))
    what = f"Holds rows of {names}, which may not be redistributed: keep it off public remotes."
    return f"**{what}**\n\n"


def names_notice(params: Params) -> str:
    """Return the notice on sources whose rows contain names."""
    names = [
        source.name
        for source in params.ingest.sources
        if isinstance(source, FilesSource) and source.names == "present"
    ]
    if not names:
        return ""
    sources = markdown(", ".join(names))
    return f"**Rows of {sources} hold names of people, which were not removed.**\n\n"


def _section(title: str, text: str) -> str:
    """Return a section with its heading."""
    return f"## {title}\n\n{text}"


def _source_table(params: Params, sources: Counter[str]) -> str:
    """Return a table of the sources with their remaining rows."""
    rows = []
    for source in params.ingest.sources:
        row = (
            source.name,
            source.kind,
            source.license,
            source.redistribution,
            getattr(source, "names", "not stated"),
            sources[source.name],
        )
        rows.append(row)
    return as_table(SOURCE_HEADINGS, rows)


def _split_table(metrics: dict[str, dict[str, int | float]], splits: Iterable[str]) -> str:
    """Return a table of the splits with their examples and tokens."""
    rows = []
    for split in splits:
        figures = metrics[split]
        rows.append((split, figures["examples"], figures["tokens"]))
    return as_table(("split", "examples", "tokens"), rows)


def _language(params: Params) -> str:
    """Return the sentence on the languages that are kept."""
    languages = markdown(", ".join(params.preprocess.languages))
    return f"Kept: {languages}, by fastText's identifier; other rows are refused.\n\n"


def _refusal_table(quarantine: dict[str, int | float]) -> str:
    """Return a table of the reasons for refusals."""
    rows = []
    for reason, count in quarantine.items():
        rows.append((reason.replace("_", " "), count))
    return as_table(("reason", "rows"), rows)


def _personal_data(params: Params, privacy: dict[str, int | float]) -> str:
    """Return the sentence on personal data."""
    found = [f"{kind} {privacy[kind]}" for kind in PERSONAL_DATA_KINDS if privacy[kind]]
    rule = params.privacy.rows
    kinds = ", ".join(found) or "none"
    return (
        f"Found in {privacy['rows']} rows and treated by the rule `{rule}`: {kinds}. "
        "No rule finds names of people.\n\n"
    )


def _contamination(params: Params, matrix: dict[str, dict[str, int]]) -> str:
    """Return the definition of contamination, and the matrix as a table."""
    run_words = params.preprocess.contamination.run_words
    threshold = params.preprocess.near_duplicates.threshold
    definition = (
        f"A run is {run_words} words; "
        f"near-duplicates have a Jaccard similarity of at least {threshold:g}.\n\n"
    )
    rows = []
    for name, counts in matrix.items():
        rows.append((name, *(counts[column] for column in MATRIX_COLUMNS)))
    return definition + as_table(MATRIX_HEADINGS, rows)


def as_table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """Return a Markdown table with escaped cells.

    A blank line follows the table.
    """
    lines = [_table_line(head), _table_line(["---"] * len(head))]
    for row in rows:
        cells = [markdown(str(cell)) for cell in row]
        lines.append(_table_line(cells))
    return "".join(lines) + "\n"


def _table_line(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |\n"
