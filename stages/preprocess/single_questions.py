"""Compare single questions of rows and turns across the splits.

Two kinds of pairs are found that the comparison of complete rows misses: questions that differ by
one word (frames.py), and a turn that nearly repeats the question of a row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.params import NearDuplicates
from bula.records import Row, row_turns
from stages.preprocess.conversations import Turns
from stages.preprocess.courtesy import core
from stages.preprocess.frames import TYPO_LETTERS, Frames, is_one_edit
from stages.preprocess.minhash import (
    Flags,
    Hashes,
    Indices,
    candidate_pairs,
    is_first_of_run,
    jaccard_similarity,
    shingles,
)
from stages.preprocess.near_duplicates import (
    CHUNK,
    Compared,
    Matches,
    can_remove,
    compare_questions,
    names_another_subject,
)
from stages.preprocess.shards import each
from stages.preprocess.table import Corpus, Place, read_places
from stages.preprocess.weights import Weights, distinct_words, load_weights, weighted_jaccard

# Each question is compared with so many questions of every earlier split under one key.
REACH = 8
# A frame that more questions fill is a form of questions, such as "Posso beber álcool com NOME?".
MOST_FILLERS = 5
# Smallest similarity by weighted words of two answers that are the same.
SAME_ANSWER = 0.8
# A typo stands in one row, or in two of at least ten that have the correct word.
FEW_ROWS = 2
MANY_ROWS = 10
NO_TURN = -1


class Units(NamedTuple):
    """Questions of rows with one turn, then of turns, by column."""

    rank: Indices
    """The rank of the question's row."""
    turn: Indices
    """The number of the turn in its conversation, or NO_TURN."""
    question: Hashes
    """The comparison hash of the question."""
    unit: Indices
    """For each rank, the index of its question, or -1 for a conversation."""

    @property
    def is_turn(self) -> Flags:
        """Return which questions are turns of a conversation."""
        turns: Flags = self.turn != NO_TURN
        return turns


def single_matches(
    corpus: Corpus, turns: Turns, comparable: Flags, settings: NearDuplicates
) -> Matches:
    """Return pairs of rows of different splits with a repeated single question."""
    units = _find_units(corpus, turns)
    similar = _similar_turns(corpus, units, turns, comparable, settings.bands)
    framed, forms = _framed_pairs(corpus, units, turns, comparable)
    codes = numpy.unique(numpy.concatenate([similar, framed]))
    early, late = numpy.divmod(codes, max(1, len(units.rank)))
    _write_pairs(corpus, units, early, late, numpy.isin(codes, forms))
    chunks = list(range(-(-len(codes) // CHUNK)))
    results = each(corpus.pool, verify_pairs, chunks, corpus.work, settings, what="one word")
    similarity = numpy.array([value for found in results for value in found], numpy.float64)
    is_same = similarity > 0
    return Matches(units.rank[early[is_same]], units.rank[late[is_same]], similarity[is_same])


def _find_units(corpus: Corpus, turns: Turns) -> Units:
    """Return all single questions."""
    table = corpus.table
    is_single = numpy.ones(len(table.rank), bool)
    is_single[turns.rank] = False
    single = numpy.flatnonzero(is_single)
    unit = numpy.full(len(table.rank), -1, numpy.int64)
    unit[single] = numpy.arange(len(single))
    return Units(
        rank=numpy.concatenate([single, turns.rank]),
        turn=numpy.concatenate([numpy.full(len(single), NO_TURN, numpy.int64), turns.turn]),
        question=numpy.concatenate([table.question[single], turns.question]),
        unit=unit,
    )


def _similar_turns(
    corpus: Corpus, units: Units, turns: Turns, comparable: Flags, bands: int
) -> Indices:
    """Return pairs of a row and a turn with a common key."""
    none = numpy.empty(0, numpy.int64)
    if not len(turns.rank):
        return none
    single = units.rank[~units.is_turn]
    found = [none]
    keep = numpy.flatnonzero(comparable[units.rank])
    keys = numpy.concatenate([corpus.table.group[single], turns.group])
    found.append(_pairs(corpus, units, keep, keys[keep], mixed_only=True))
    for band in range(bands):
        keys = numpy.concatenate([_row_band(corpus, band)[single], _turn_band(corpus, band)])
        found.append(_pairs(corpus, units, keep, keys[keep], mixed_only=True))
        found = [numpy.unique(numpy.concatenate(found))]
    return found[0]


def _row_band(corpus: Corpus, band: int) -> Hashes:
    """Return one band hash of each row's question, in rank order."""
    keys = numpy.empty(len(corpus.table.rank), numpy.uint64)
    numbers = range(corpus.parts + corpus.table.set_a)
    keys[corpus.table.rank] = _stored_band(corpus, band, numbers, "question")
    return keys


def _turn_band(corpus: Corpus, band: int) -> Hashes:
    """Return one band hash of each turn."""
    return _stored_band(corpus, band, range(corpus.parts), "turns")


def _stored_band(corpus: Corpus, band: int, numbers: range, name: str) -> Hashes:
    """Return one band hash of each text of the parts."""
    arrays = (numpy.load(corpus.work / f"{n}.{name}.npy", mmap_mode="r")[band] for n in numbers)
    return numpy.concatenate(list(arrays))


def _pairs(
    corpus: Corpus, units: Units, keep: Indices, keys: Hashes, mixed_only: bool = False
) -> Indices:
    """Return the pairs of the questions `keep` with one key in different splits.

    A pair is coded as early * questions + late. The turns of two conversations are not compared:
    follow-up questions such as "E se piorar?" repeat.
    """
    table = corpus.table
    rank = units.rank[keep]
    is_turn = units.is_turn
    # In each split the rows precede the turns, so that no turn hides a row.
    order = numpy.lexsort((rank, is_turn[keep], table.split[rank]))
    keep = keep[order]
    codes = [numpy.empty(0, numpy.int64)]
    split = table.split[units.rank[keep]]
    for one, other in candidate_pairs(keys[order], split, REACH, within_split=False):
        early = keep[one]
        late = keep[other]
        is_wanted = can_remove(table, units.rank[early], units.rank[late])
        is_wanted &= ~(is_turn[early] & is_turn[late])
        if mixed_only:
            is_wanted &= is_turn[early] | is_turn[late]
        codes.append((early * len(units.rank) + late)[is_wanted])
    return numpy.unique(numpy.concatenate(codes))


def _framed_pairs(
    corpus: Corpus, units: Units, turns: Turns, comparable: Flags
) -> tuple[Indices, Indices]:
    """Return the pairs of questions that differ by one word.

    The second result has the pairs whose frame is a form of many questions.
    """
    table = corpus.table
    is_item = table.split[units.rank] < table.train
    item_keys = [numpy.empty(0, numpy.uint64)]
    for frames in _frames_of_parts(corpus, units, comparable):
        item_keys.append(numpy.unique(frames.key[is_item[frames.text]]))
    known = numpy.unique(numpy.concatenate(item_keys))
    blocks = [Frames(*(numpy.empty(0, kind) for kind in (numpy.int64, "u8", "u8")))]
    for frames in _frames_of_parts(corpus, units, comparable):
        is_known = numpy.isin(frames.key, known)
        kept = (frames.text[is_known], frames.key[is_known], frames.frame[is_known])
        blocks.append(Frames(*kept))
    frames = Frames(*(numpy.concatenate(columns) for columns in zip(*blocks, strict=True)))
    is_form = _are_forms(frames, units)
    rest = ~is_form
    pairs = _pairs(corpus, units, frames.text[rest], frames.key[rest])
    # In a form, only a typo makes two questions equal.
    typos = is_form & ~frames.is_plain
    forms = _pairs(corpus, units, frames.text[typos], frames.key[typos])
    return numpy.concatenate([pairs, forms]), forms


def _frames_of_parts(corpus: Corpus, units: Units, comparable: Flags) -> Iterator[Frames]:
    """Yield the frames of each part, with the index of the question."""
    table = corpus.table
    first_row = 0
    first_turn = int(numpy.count_nonzero(~units.is_turn))
    for number in range(corpus.parts + table.set_a):
        with numpy.load(corpus.work / f"{number}.frames.npz") as arrays:
            text, key, frame, rows, turns = (
                arrays[name] for name in ("text", "key", "frame", "rows", "turns")
            )
        ranks = table.rank[first_row : first_row + int(rows)]
        known = numpy.concatenate([units.unit[ranks], first_turn + numpy.arange(int(turns))])
        first_row += int(rows)
        first_turn += int(turns)
        unit = known[text]
        wanted = (unit >= 0) & comparable[units.rank[unit]]
        yield Frames(unit[wanted], key[wanted], frame[wanted])


def _are_forms(frames: Frames, units: Units) -> Flags:
    """Return for each frame whether more than MOST_FILLERS different questions fill it."""
    plain = numpy.flatnonzero(frames.is_plain)
    question = units.question[frames.text[plain]]
    order = numpy.lexsort((question, frames.frame[plain]))
    frame = frames.frame[plain][order]
    is_first = is_first_of_run(frame) | is_first_of_run(question[order])
    known, fillers = numpy.unique(frame[is_first], return_counts=True)
    forms = known[fillers > MOST_FILLERS]
    return numpy.isin(frames.frame, forms)


def _write_pairs(
    corpus: Corpus, units: Units, early: Indices, late: Indices, is_form: Flags
) -> None:
    """Write the places and turns of each pair, and whether it is a form."""
    columns: list[NDArray[Any]] = []
    for unit in (early, late):
        rank = units.rank[unit]
        table = corpus.table
        columns += [table.part[rank], table.start[rank], table.size[rank], units.turn[unit]]
    columns.append(is_form)
    numpy.save(corpus.work / "pairs.npy", numpy.stack(columns, axis=1).astype(numpy.int64))


def verify_pairs(number: int, work: Path, settings: NearDuplicates) -> list[float]:
    """Return the similarity of the questions of each pair of one chunk, or 0.

    The pairs are read from pairs.npy, and the weights of words from weights.npy.
    """
    pairs = numpy.load(work / "pairs.npy", mmap_mode="r")
    weights = load_weights(work)
    chunk = pairs[number * CHUNK : (number + 1) * CHUNK].tolist()
    places = [Place(*columns[:3]) for columns in chunk]
    places += [Place(*columns[4:7]) for columns in chunk]
    rows = read_places(work, places)
    similarities = []
    for columns in chunk:
        one = _turn_of(rows[Place(*columns[:3])]["example"], columns[3])
        other = _turn_of(rows[Place(*columns[4:7])]["example"], columns[7])
        similarities.append(_compare(one, other, bool(columns[8]), weights, settings))
    return similarities


def _turn_of(example: Row, number: int) -> Row:
    """Return one turn of an example; its only turn has no number."""
    turn: Row = row_turns(example)[number]
    return turn


def _compare(
    one: Row, other: Row, is_form: bool, weights: Weights, settings: NearDuplicates
) -> float:
    """Return the similarity of two turns whose questions repeat each other, or 0."""
    texts = [core(one["question"]), core(other["question"])]
    first, second = (shingles(text, settings.shingle_words) for text in texts)
    pair = (
        Compared(distinct_words(texts[0]), distinct_words(one["answer"])),
        Compared(distinct_words(texts[1]), distinct_words(other["answer"])),
    )
    similarity = jaccard_similarity(first, second)
    found = compare_questions(*pair, similarity, weights, settings)
    return found or compare_one_word(*pair, is_form, weights)


def compare_one_word(one: Compared, other: Compared, is_form: bool, weights: Weights) -> float:
    """Return the similarity of two questions that differ by one word, or 0.

    They repeat each other if the word is a typo, or if the answers are the same. In a form of many
    questions the word is what matters, and so is a number.
    """
    more = one.question - other.question
    less = other.question - one.question
    differing = more | less
    if len(more) > 1 or len(less) > 1 or any(map(str.isdigit, "".join(differing))):
        return 0.0
    if names_another_subject(one, other):
        return 0.0
    alike = weighted_jaccard(one.question, other.question, weights)
    for mine, others in zip(more, less, strict=False):
        if _is_typo(mine, others, one, other, is_form, weights):
            return alike
    is_named = (more & one.answer) - other.answer or (less & other.answer) - one.answer
    if is_form or is_named:
        return 0.0
    same = weighted_jaccard(one.answer, other.answer, weights) >= SAME_ANSWER
    return alike if same else 0.0


def _is_typo(
    mine: str, others: str, one: Compared, other: Compared, is_form: bool, weights: Weights
) -> bool:
    """Return whether one of two words is a typo of the other.

    A typo is rare, and no answer repeats it. In a form, the correct word stands in more rows.
    """
    if min(len(mine), len(others)) < TYPO_LETTERS - 1 or not is_one_edit(mine, others):
        return False
    rows = sorted([(weights.rows(mine), mine), (weights.rows(others), others)])
    (few, typo), (many, _) = rows
    if is_form and many <= 1:
        return False
    if typo in (one.answer if typo == mine else other.answer):
        return False
    return few <= 1 or (few <= FEW_ROWS and many >= MANY_ROWS)
