"""Collect the data of the run from earlier stages' metrics.

A file that does not exist yet leaves its table out.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from bula.records import SET_NAMES, Row
from bula.tables.cells import UNKNOWN
from bula.tables.figures import Metrics, read_figures
from stages.compare.page.tables import Table
from stages.compare.page.words import Both, both

SOURCE = "source_"
BENCHMARK = "benchmark_"
SPLITS = ("train", "dev", *SET_NAMES)
DATA_HEAD = (
    Both("data", "dados"),
    Both("license", "licença"),
    Both("redistribution", "redistribuição"),
    Both("rows read", "linhas lidas"),
    Both("kept", "mantidas"),
    Both("lost", "perdidas"),
)
SPLIT_HEAD = (
    Both("part", "parte"),
    Both("examples", "exemplos"),
    Both("tokens", "tokens"),
)
CONTAMINATION_HEAD = (
    Both("set", "conjunto"),
    Both("items", "itens"),
    Both("shared run of words", "sequência de palavras em comum"),
    Both("near-duplicate", "quase cópia"),
    Both("training rows removed", "linhas de treino removidas"),
)
SPLIT_NAMES = {
    "train": Both("training", "treino"),
    "dev": Both("checks during training", "verificação durante o treino"),
}
# Values of metrics/ingest.json.
ALLOWED = {"allowed": Both("allowed", "permitida"), "forbidden": Both("forbidden", "proibida")}


def read_plot(path: Path) -> list[Row]:
    """Return the rows of a plot, or none if the file does not exist."""
    if not path.exists():
        return []
    return cast(list[Row], json.loads(path.read_text(encoding="utf-8")))


def read_optional(path: Path, stage: str) -> Metrics:
    """Return the content of a metrics file, or nothing if it does not exist."""
    return read_figures(path, stage) if path.exists() else {}


def source_tables(figures: Path) -> list[Table]:
    """Return the tables of sources, splits and contamination."""
    ingest = read_optional(figures / "ingest.json", "ingest")
    prepared = read_optional(figures / "preprocess.json", "preprocess")
    found = read_optional(figures / "contamination.json", "preprocess")
    tables = [
        Table(
            Both("Data and licenses", "Dados e licenças"), list(DATA_HEAD), _data(ingest, prepared)
        ),
        Table(Both("Examples", "Exemplos"), list(SPLIT_HEAD), _splits(prepared)),
        Table(
            Both(
                "Evaluation items found in the training data",
                "Itens de avaliação achados no treino",
            ),
            list(CONTAMINATION_HEAD),
            _contamination(found),
        ),
    ]
    return [table for table in tables if table.rows]


def _data(ingest: Metrics, prepared: Metrics) -> list[list[Both]]:
    """Return a row per source and per benchmark."""
    rows = []
    for name, group in _groups(ingest):
        if not name.startswith((SOURCE, BENCHMARK)):
            continue
        # A benchmark has no rows for training, so no split either.
        split = prepared.get(name, {})
        allowed = str(group.get("redistribution", UNKNOWN))
        kept: object = UNKNOWN
        if split:
            kept = sum(split.get(part, 0) for part in SPLITS)
        row = [
            _plain(name.removeprefix(SOURCE).removeprefix(BENCHMARK)),
            _plain(group.get("license", UNKNOWN)),
            ALLOWED.get(allowed, both(allowed)),
            _plain(group.get("rows", UNKNOWN)),
            _plain(kept),
            _plain(split.get("lost", UNKNOWN)),
        ]
        rows.append(row)
    return rows


def _splits(prepared: Metrics) -> list[list[Both]]:
    """Return a row per part of the data."""
    rows = []
    for name in SPLITS:
        if group := prepared.get(name):
            title = SPLIT_NAMES.get(name, Both(f"validation {name}", f"validação {name}"))
            rows.append([title, _plain(group["examples"]), _plain(group["tokens"])])
    return rows


def _contamination(found: Metrics) -> list[list[Both]]:
    """Return a row per validation set and benchmark."""
    rows = []
    for name, group in _groups(found):
        removed = group.get("train_rows", 0) - group.get("train_rows_left", 0)
        figures = (
            group.get("items"),
            group.get("items_shared_run"),
            group.get("items_near_duplicate"),
        )
        rows.append([_plain(name), *map(_plain, figures), _plain(removed)])
    return rows


def privacy_note(figures: Path) -> Both | None:
    """Return the personal data that preprocess found, or None without its metrics."""
    found = read_optional(figures / "preprocess.json", "preprocess").get("privacy")
    if not isinstance(found, Mapping):
        return None
    kinds = {kind: count for kind, count in found.items() if kind != "rows" and count}
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    rows = found.get("rows", 0)
    return Both(
        f"Rows with personal data: {rows}. Findings: {listed or 'none'}. Names of people are found "
        "only beside words such as “patient”, unless a model for names is set.",
        f"Linhas com dados pessoais: {rows}. Achados: {listed or 'nenhum'}. Nomes de pessoas só "
        "são achados ao lado de palavras como “paciente”, a não ser que haja um modelo para nomes.",
    )


def _groups(figures: Metrics) -> Iterable[tuple[str, Any]]:
    """Return the groups of a metrics file, sources of training data first."""
    groups = [(name, group) for name, group in figures.items() if isinstance(group, Mapping)]
    return sorted(groups, key=lambda item: (not item[0].startswith(SOURCE), item[0]))


def _plain(value: object) -> Both:
    """Return a name, or a count with separators of thousands."""
    if isinstance(value, int):
        text = f"{value:,}"
        return Both(text, text.replace(",", "."))
    name = UNKNOWN if value is None else str(value)
    return Both(name, name)
