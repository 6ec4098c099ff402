"""What preprocess writes: splits, quarantine, the evidence of contamination, figures, plots and the data set card."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy

from bula.errors import UserError
from bula.escaping import markdown
from bula.files import staged
from bula.params import FilesSource, Params
from bula.privacy import PERSONAL_DATA_KINDS
from bula.records import SET_NAMES, Row, read_rows, write_rows
from stages.preprocess.clean import SPLITS, refuse, whole
from stages.preprocess.contamination import duplicate_options, nearest
from stages.preprocess.deduplicate import Decision, Indices, Table, places_of, read_places

BIN_TOKENS = 32
OVERLAP_WORDS = 5
# Rows held at once while files are written.
BATCH = 20_000
MATRIX_COLUMNS = (
    "items",
    "items_shared_run",
    "items_near_duplicate",
    "train_rows",
    "train_rows_left",
)
REPAIRS = ("html_stripped", "mojibake_repaired")


def rows_at(table: Table, work: Path, ranks: Indices) -> Iterator[Row]:
    """Rows (file, line, example) of the given ranks, in their order, read in batches."""
    for start in range(0, len(ranks), BATCH):
        places = places_of(table, ranks[start : start + BATCH])
        rows = read_places(work, places)
        yield from (rows[place] for place in places)


def kept_ranks(table: Table, decision: Decision, limit: int) -> dict[str, Indices]:
    """Ranks that are written, by split; training rows up to the limit."""
    kept: dict[str, Indices] = {
        split: numpy.flatnonzero(decision.alive & (table.split == table.names.index(split)))
        for split in SPLITS
    }
    kept["train"] = kept["train"][:limit]
    return kept


def quarantine_rows(table: Table, decision: Decision, work: Path, parts: int) -> Iterator[Row]:
    """Quarantine: rows refused by themselves in the order of the sources, then those refused for another row."""
    for number in range(parts):
        yield from read_rows(work / f"{number}.refused.jsonl")
    ranks = numpy.array(sorted(decision.refused), dtype=numpy.int64)
    for rank, row in zip(ranks.tolist(), rows_at(table, work, ranks), strict=True):
        yield refuse(
            row["example"] | {"file": row["file"], "line": row["line"]}, decision.refused[rank]
        )


def categories(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    """Pass rows on; `counts` is told the reason of each without its particulars, as a metric's name."""
    for row in rows:
        reason = row["reason"]
        for end in (":", " (", " as ", " of ", " with "):
            reason = reason.split(end)[0]
        counts["_".join(reason.lower().split())] += 1
        yield row


def write_splits(
    folder: Path, table: Table, work: Path, kept: dict[str, Indices], sources: Counter[str]
) -> None:
    """Write every split; `sources` is told how many rows of each source stay."""

    def examples(split: str) -> Iterator[Row]:
        for row in rows_at(table, work, kept[split]):
            sources[row["example"]["source"]] += 1
            yield row["example"]

    for split in SPLITS:
        name = f"validation/{split}" if split in SET_NAMES else split
        write_rows(folder / f"{name}.jsonl", examples(split))


def write_evidence(
    folder: Path, decision: Decision, benchmarks: list[Path], items: int
) -> dict[str, float]:
    """Write contamination.jsonl and overlap.jsonl; gives the largest overlap of each validation set."""
    doubled = [
        {"set": path.stem, "line": line, "kind": "two options are the same"}
        for path in benchmarks
        for line in duplicate_options(path)
    ]
    write_rows(folder / "contamination.jsonl", [*decision.evidence, *doubled])
    texts, owner = dict[str, str](), dict[str, str]()
    for name in SET_NAMES:
        for number, row in enumerate(read_rows(folder / f"validation/{name}.jsonl")):
            if number < items:
                texts[row["id"]], owner[row["id"]] = whole(row), name
    best = nearest(texts, read_rows(folder / "train.jsonl"), OVERLAP_WORDS)
    write_rows(
        folder / "overlap.jsonl",
        (
            {"id": item, "overlap_5gram": share, "nearest": twin}
            for item, (share, twin) in best.items()
        ),
    )
    return {
        name: max((share for item, (share, _) in best.items() if owner[item] == name), default=0.0)
        for name in SET_NAMES
    }


def length_table(table: Table, kept: dict[str, Indices]) -> list[dict[str, int | str]]:
    """Histogram rows of example lengths: split (group), lower edge of the bin in tokens, examples."""
    rows: list[dict[str, int | str]] = []
    for split, ranks in kept.items():
        counts = Counter((table.tokens[ranks] // BIN_TOKENS * BIN_TOKENS).tolist())
        rows += [
            {"group": split, "tokens": edge, "examples": counts[edge]} for edge in sorted(counts)
        ]
    return rows


def contamination_plot(decision: Decision) -> list[dict[str, int | str]]:
    """Plot rows: items of each set that were found in train, by the way they were found."""
    ways = {"shared run of words": "items_shared_run", "near-duplicate": "items_near_duplicate"}
    return [
        {"group": way, "set": name, "items": row[key]}
        for way, key in ways.items()
        for name, row in decision.matrix.items()
    ]


def summarise(
    table: Table,
    kept: dict[str, Indices],
    overlap: dict[str, float],
    counts: Counter[str],
    reasons: Counter[str],
    beyond: int,
) -> dict[str, dict[str, int | float]]:
    """Counts and token lengths of each split, repairs, personal data by kind, and refusals by reason."""
    metrics: dict[str, dict[str, int | float]] = {}
    for split, ranks in kept.items():
        tokens = table.tokens[ranks]
        metrics[split] = {
            "examples": len(ranks),
            "tokens": int(tokens.sum()),
            "tokens_longest": int(tokens.max()),
        }
        if split == "train":
            metrics[split]["beyond_limit"] = beyond
        if split in overlap:
            metrics[split]["overlap_5gram_largest"] = overlap[split]
    metrics["repaired"] = {name: int(counts[f"repaired {name}"]) for name in REPAIRS}
    metrics["privacy"] = {
        name: counts[f"privacy {name}"] for name in ("rows", *PERSONAL_DATA_KINDS)
    }
    metrics["quarantine"] = {"rows": reasons.total(), **dict(sorted(reasons.items()))}
    return metrics


def contamination_metrics(decision: Decision, benchmarks: list[Path]) -> dict[str, dict[str, int]]:
    """The matrix, with the items of each benchmark two of whose options are the same."""
    return decision.matrix | {
        p.stem: decision.matrix[p.stem] | {"duplicate_option_items": len(duplicate_options(p))}
        for p in benchmarks
    }


def card(
    params: Params,
    kept: dict[str, Indices],
    sources: Counter[str],
    metrics: dict[str, dict[str, int | float]],
    decision: Decision,
) -> str:
    """The data set card, in the form that the Hugging Face hub reads: `load_dataset` on the folder gives its splits."""
    files = "".join(
        f"  - split: {s}\n    path: {f'validation/{s}' if s in SET_NAMES else s}.jsonl\n"
        for s in ("train", "dev", *SET_NAMES)
    )
    licenses = "".join(
        f'- "{license}"\n'
        for license in sorted({source.license for source in params.ingest.sources})
    )
    head = f"language:\n- pt\nlicense:\n{licenses}task_categories:\n- question-answering\n- text-generation\ntags:\n- medical\n"
    closed = [
        source.name
        for source in params.ingest.sources
        if source.redistribution == "forbidden" and sources[source.name]
    ]
    warning = ""
    if closed:
        rows_of = markdown(", ".join(closed))
        warning = f"**Holds rows of {rows_of}, which may not be redistributed: keep it off public remotes.**\n\n"
    warning += names_notice(params)
    found = {
        kind: metrics["privacy"][kind] for kind in PERSONAL_DATA_KINDS if metrics["privacy"][kind]
    }
    matrix = [
        (name, *(row[key] for key in MATRIX_COLUMNS)) for name, row in decision.matrix.items()
    ]
    kinds = ", ".join(f"{kind} {count}" for kind, count in found.items()) or "none"
    run, threshold = (
        params.preprocess.contamination.run_words,
        params.preprocess.near_duplicates.threshold,
    )
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}{head}---\n\n# Questions and answers on health, in Portuguese\n\n"
        f"Made by `dvc repro` for research on tuning; not medical advice.\n\n{warning}## Sources\n\n"
        + as_table(
            ("source", "kind", "license", "redistribution", "names", "rows"),
            [
                (
                    s.name,
                    s.kind,
                    s.license,
                    s.redistribution,
                    getattr(s, "names", "not stated"),
                    sources[s.name],
                )
                for s in params.ingest.sources
            ],
        )
        + "## Splits\n\n"
        + as_table(
            ("split", "examples", "tokens"),
            [(split, len(ranks), metrics[split]["tokens"]) for split, ranks in kept.items()],
        )
        + f"## Language\n\nKept: {markdown(', '.join(params.preprocess.languages))}, by fastText's identifier; other rows are refused.\n\n"
        + "## Refused rows\n\n"
        + as_table(
            ("reason", "rows"),
            [(reason.replace("_", " "), count) for reason, count in metrics["quarantine"].items()],
        )
        + f"## Personal data\n\nFound in {metrics['privacy']['rows']} rows and treated by the rule `{params.privacy.rows}`: {kinds}. "
        "No rule finds names of people.\n\n"
        + f"## Contamination\n\nA run is {run} words; near-duplicates have a Jaccard similarity of at least {threshold:g}.\n\n"
        + as_table(
            (
                "train against",
                "items",
                "sharing a run",
                "near-duplicate",
                "training rows found",
                "left",
            ),
            matrix,
        )
    )


def names_notice(params: Params) -> str:
    """Return the card's notice on sources whose rows still hold people's names."""
    names = [
        s.name for s in params.ingest.sources if isinstance(s, FilesSource) and s.names == "present"
    ]
    if not names:
        return ""
    return f"**Rows of {markdown(', '.join(names))} hold names of people, which were not removed.**\n\n"


def as_table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Return a Markdown table with escaped cells, and a blank line after it."""
    escaped = [tuple(markdown(str(cell)) for cell in row) for row in rows]
    lines = [head, ("---",) * len(head), *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def check_ids(table: Table, kept: dict[str, Indices]) -> None:
    """Raise ValueError if an id is kept twice, which de-duplication rules out."""
    ids = numpy.concatenate([table.id[ranks] for ranks in kept.values()])
    if len(numpy.unique(ids)) < len(ids):
        raise ValueError("preprocess kept an id twice")


def write_clean(
    clean: Path,
    quarantine: Path,
    params: Params,
    table: Table,
    work: Path,
    parts: int,
    decision: Decision,
    counts: Counter[str],
    tasks: list[Path],
) -> tuple[dict[str, Indices], dict[str, dict[str, int | float]]]:
    """Write splits, evidence, card and quarantine; gives the ranks written and the metrics. UserError if a split is empty."""
    kept, sources, reasons = (
        kept_ranks(table, decision, params.preprocess.train_limit),
        Counter[str](),
        Counter[str](),
    )
    write_rows(quarantine, categories(quarantine_rows(table, decision, work, parts), reasons))
    if empty := [split for split, ranks in kept.items() if not len(ranks)]:
        what = f"no examples left for {', '.join(empty)}; {quarantine} says why {reasons.total()} rows were refused"
        raise UserError(
            "preprocess", what, "add rows, or change the shares and filters of preprocess"
        )
    check_ids(table, kept)
    beyond = int(
        numpy.count_nonzero(decision.alive & (table.split == table.names.index("train")))
    ) - len(kept["train"])
    with staged(clean) as temporary:
        write_splits(temporary, table, work, kept, sources)
        overlap = write_evidence(temporary, decision, tasks, params.preprocess.overlap_items)
        metrics = summarise(table, kept, overlap, counts, reasons, beyond)
        (temporary / "README.md").write_text(
            card(params, kept, sources, metrics, decision), encoding="utf-8"
        )
    return kept, metrics
