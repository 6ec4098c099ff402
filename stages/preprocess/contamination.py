"""What of the validation sets and benchmarks stands in the training rows: runs of words, and the items they come from."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.records import Row, example_id, read_rows
from bula.text import comparison_key, ngrams, normalise
from stages.preprocess.clean import SPLITS, as_cleaned, whole
from stages.preprocess.minhash import windows, word_hashes

# Fields of lm-eval's tasks: what is asked, and what is no text of the item.
QUESTION_FIELDS = ("question", "sent1", "query", "premise", "text")
NO_TEXT = ("id", "doc_id", "subject_name", "topic_name", "title")
OPTION_FIELDS = (("opa", "opb", "opc", "opd"), ("ending0", "ending1", "ending2", "ending3"))


class Runs(NamedTuple):
    """Distinct runs of words of all items, sorted by hash, and for each occurrence its run and its item (an index)."""

    hashes: NDArray[numpy.uint64]
    sets: NDArray[numpy.int64]
    """Bit k is set if an item of set k has the run."""
    run: NDArray[numpy.int64]
    item: NDArray[numpy.int64]


class Shared(NamedTuple):
    """What the training rows of one part share with items."""

    rows: NDArray[numpy.int64]
    """Numbers of the rows in the part."""
    sets: NDArray[numpy.int64]
    """For each of them, the sets as bits."""
    first: NDArray[numpy.int64]
    """For each of them, one run that it shares."""
    runs: NDArray[numpy.int64]
    """All runs that were found."""


def item_texts(item: Row) -> tuple[str, str]:
    """Question of a benchmark item, and everything else that it says; text that stands inside other text is said once."""
    texts = [
        text
        for name, value in item.items()
        if name not in NO_TEXT
        for text in _strings(value)
        if comparison_key(text)
    ]
    question = next(
        (
            item[name]
            for name in QUESTION_FIELDS
            if isinstance(item.get(name), str) and item[name] in texts
        ),
        " ".join(texts[:1]),
    )
    rest = [
        text
        for text in texts
        if text != question and not any(text != other and text in other for other in texts)
    ]
    return question, " ".join(rest)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a value, however deep (choices, answers.text)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _cleaned(value: Any) -> Any:
    """A value of an item with every text in it cleaned as a training row's is: an entity in one of them must not part the two."""
    if isinstance(value, str):
        return as_cleaned(value)
    if isinstance(value, dict):
        return {name: _cleaned(inner) for name, inner in value.items()}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def benchmark_rows(path: Path) -> list[Row]:
    """Items of a benchmark in the shape in which cleaned rows are kept; the id is that of the item as it is asked."""
    rows = []
    for line, item in enumerate(read_rows(path), start=1):
        question, rest = item_texts(_cleaned(item))
        rows.append(
            {
                "file": path.name,
                "line": line,
                "example": {
                    "id": example_id(path.stem, *item_texts(item)),
                    "question": question,
                    "answer": rest,
                },
            }
        )
    return rows


def duplicate_options(path: Path) -> list[int]:
    """Lines of multiple-choice items two of whose options are the same text: whichever is keyed, one of them is scored wrong."""
    lines = []
    for line, item in enumerate(read_rows(path), start=1):
        # Signs inside an option count: "↑ ↓" is not "↓ ↑", nor -2 the same as 2.
        options = [normalise(str(option)).casefold().strip(" .,;!") for option in _options(item)]
        if len(set(options)) < len(options):
            lines.append(line)
    return lines


def _options(item: Row) -> list[Any]:
    """The options of an item in any of the known forms."""
    if isinstance(item.get("choices"), dict):
        return list(item["choices"].get("text", []))
    for form in ("choices", "options"):
        if isinstance(item.get(form), list | dict):
            return list(item[form].values() if isinstance(item[form], dict) else item[form])
    return next(
        (
            [item[name] for name in fields]
            for fields in OPTION_FIELDS
            if all(name in item for name in fields)
        ),
        [],
    )


def index_runs(batches: Iterable[list[str]], sets: NDArray[numpy.int64], size: int) -> Runs:
    """Runs of `size` words of items, given in batches, each of which belongs to the set of that number."""
    found, items, first = [numpy.empty(0, numpy.uint64)], [numpy.empty(0, numpy.int64)], 0
    for texts in batches:
        part, owner = windows(*word_hashes(texts), size)
        found.append(part)
        items.append(owner + first)
        first += len(texts)
    hashes, item = numpy.concatenate(found), numpy.concatenate(items)
    distinct, run = numpy.unique(hashes, return_inverse=True)
    bits = numpy.zeros(len(distinct), numpy.int64)
    numpy.bitwise_or.at(bits, run, numpy.left_shift(1, sets[item]))
    return Runs(distinct, bits, run, item)


def look_up(hashes: NDArray[numpy.uint64], known: NDArray[numpy.uint64]) -> NDArray[numpy.int64]:
    """For each hash its place among the sorted known ones, or -1."""
    if not len(known):
        return numpy.full(len(hashes), -1)
    place = numpy.minimum(numpy.searchsorted(known, hashes), len(known) - 1)
    return numpy.where(known[place] == hashes, place, -1)


def scan_part(number: int, work: Path, size: int) -> Shared:
    """Look through the training rows of a part for the runs that settle left in the work folder."""
    known, sets = (
        numpy.load(work / f"runs.{name}.npy", mmap_mode="r") for name in ("hashes", "sets")
    )
    with numpy.load(work / f"{number}.npz") as arrays:
        train = numpy.flatnonzero(arrays["split"] == SPLITS.index("train"))
    wanted = set(train.tolist())
    with (work / f"{number}.jsonl").open("rb") as file:
        texts = [
            whole(json.loads(line)["example"]) for place, line in enumerate(file) if place in wanted
        ]
    hashes, owner = windows(*word_hashes(texts), size)
    place = look_up(hashes, known)
    owner, place = owner[place >= 0], place[place >= 0]
    rows, start = numpy.unique(owner, return_index=True)
    bits = (
        numpy.bitwise_or.reduceat(sets[place], start) if len(rows) else numpy.empty(0, numpy.int64)
    )
    return Shared(train[rows], bits, place[start], numpy.unique(place))


def nearest(items: dict[str, str], train: Iterator[Row], size: int) -> dict[str, tuple[float, str]]:
    """For each item (id to text): the largest share of its runs of `size` words found in one training row, and that row's id."""
    grams = {item: set(ngrams(text, size)) for item, text in items.items()}
    owners: dict[tuple[str, ...], list[str]] = {}
    for item, own in grams.items():
        for gram in own:
            owners.setdefault(gram, []).append(item)
    best: dict[str, tuple[float, str]] = dict.fromkeys(items, (0.0, ""))
    for row in train:
        shared: dict[str, int] = {}
        for gram in set(ngrams(whole(row), size)) & owners.keys():
            for item in owners[gram]:
                shared[item] = shared.get(item, 0) + 1
        for item, count in shared.items():
            best[item] = max(best[item], (count / len(grams[item]), row["id"]))
    return best
