"""Draw the pairs of answers that raters judge."""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple, get_args

from bula.errors import UserError
from bula.item_scores import AnswerRow, VerdictRow, read_answered, read_checked
from bula.labels.records import Level
from bula.params import Pair
from bula.records import Example, Split
from bula.safety import gives_dose, sends_to_emergency

# The order in which the levels fill a sample that another level is too small for.
LEVELS: tuple[Level, ...] = get_args(Level)
# The percentage of each level in a sample. A judgement of a loop tells little, so loops are few.
PERCENT: dict[Level, int] = {"doubtful": 50, "clear": 30, "loop": 20}
# The judge's score of accuracy that says neither right nor wrong.
MIDDLE_SCORE = 2
GENERATE_AGAIN = "run `dvc repro generate@{}`, or `python -m bula answers` for train and dev"


class RatedAnswer(AnswerRow):
    """An answer with the fields that the sample needs."""

    # A set of `bula answers` is train or dev, and the pipeline answers A to E only.
    split: Split  # type: ignore[assignment]
    degenerate: bool


class Cell(NamedTuple):
    """The part of the candidates between which the sample makes no difference."""

    level: Level
    split: Split
    specialty: str | None


class Candidate(NamedTuple):
    """Two answers to one question, which a rater may judge."""

    example: Example
    first: RatedAnswer
    """The answer of the pair's baseline."""
    second: RatedAnswer
    """The answer of the pair's variant."""
    variants: tuple[str, str]
    """The variants of the two answers."""
    level: Level

    @property
    def cell(self) -> Cell:
        """The level, set and specialty. The sample treats all candidates of a cell alike."""
        return Cell(self.level, self.example.split, self.example.specialty)


class Found(NamedTuple):
    """The candidates of a run."""

    candidates: list[Candidate]
    equal: int
    """Pairs that were left out, because both variants gave the same answer."""


def find_candidates(
    answers: Path, verdicts: Path, examples: dict[str, Example], pairs: Sequence[Pair]
) -> Found:
    """Return the answers of all pairs of variants to the same questions.

    Questions without an answer of both variants are left out. Raise UserError if a question is not
    among the examples.
    """
    candidates = []
    equal = 0
    for pair in pairs:
        variants = (pair.baseline, pair.variant)
        firsts, seconds = (_read_answers(answers, name, examples) for name in variants)
        unsure = [_unsure_answers(verdicts, name) for name in variants]
        for item in sorted(firsts.keys() & seconds.keys()):
            both = (firsts[item], seconds[item])
            if both[0].generated == both[1].generated:
                equal += 1
                continue
            judge_doubts = any(item in items for items in unsure)
            level = doubt_level(both, judge_doubts=judge_doubts)
            candidates.append(Candidate(examples[item], *both, variants, level))
    return Found(candidates, equal)


def doubt_level(answers: Sequence[RatedAnswer], *, judge_doubts: bool) -> Level:
    """Return the level of doubt of two answers to one question."""
    if any(answer.degenerate for answer in answers):
        return "loop"
    if judge_doubts or any(map(_fails_a_safety_rule, answers)):
        return "doubtful"
    return "clear"


def _fails_a_safety_rule(row: RatedAnswer) -> bool:
    """Return whether an answer states a dose, or omits the reference's emergency.

    An emergency is an order to go to emergency care at once.
    """
    omits_emergency = sends_to_emergency(row.answer) and not sends_to_emergency(row.generated)
    return omits_emergency or gives_dose(row.generated)


def _read_answers(
    folder: Path, variant: str, examples: dict[str, Example]
) -> dict[str, RatedAnswer]:
    """Return the answers of a variant by question id."""
    path = folder / f"{variant}.jsonl"
    if not path.is_file():
        raise UserError(path, "the file does not exist", GENERATE_AGAIN.format(variant))
    rows = read_answered(path, f"generate@{variant}", RatedAnswer)
    for row in rows:
        if row.id not in examples:
            what = f"question {row.id} is not in data/clean, so the answers are of another run"
            raise UserError(path, what, GENERATE_AGAIN.format(variant))
    return {row.id: row for row in rows}


def _unsure_answers(folder: Path, variant: str) -> set[str]:
    """Return the questions at which the judge failed, abstained or gave the middle score.

    Answers that the judge did not receive are not in the set.
    """
    path = folder / f"{variant}.jsonl"
    if not path.exists():
        return set()
    rows = read_checked(path, f"judge@{variant}", VerdictRow)
    return {row.id for row in rows if row.accuracy in (None, MIDDLE_SCORE)}


def draw_sample(candidates: Sequence[Candidate], count: int, random: Random) -> list[Candidate]:
    """Return at most `count` candidates in random order.

    The levels have their shares of the sample if they are large enough. Within a level, the sets
    are balanced first and the specialties second.
    """
    levels: defaultdict[Level, list[Candidate]] = defaultdict(list)
    for candidate in random.sample(candidates, len(candidates)):
        levels[candidate.level].append(candidate)
    sizes = {level: len(levels[level]) for level in LEVELS}
    drawn: list[Candidate] = []
    for level, number in allocate(sizes, count).items():
        drawn += _draw_balanced(levels[level], number)
    random.shuffle(drawn)
    return drawn


def allocate(sizes: dict[Level, int], count: int) -> dict[Level, int]:
    """Return the number of candidates to draw from each level.

    `sizes` are the candidates of each level. What a small level lacks comes from the other levels,
    in the order of `LEVELS`.
    """
    numbers = {level: min(PERCENT[level] * count // 100, sizes[level]) for level in LEVELS}
    for level in LEVELS:
        missing = count - sum(numbers.values())
        numbers[level] += min(missing, sizes[level] - numbers[level])
    return numbers


def _draw_balanced(candidates: Sequence[Candidate], number: int) -> list[Candidate]:
    """Return `number` candidates, each time of the rarest set and specialty so far.

    Of equally rare cells, the one whose first candidate comes first is used.
    """
    cells: defaultdict[Cell, deque[int]] = defaultdict(deque)
    for place, candidate in enumerate(candidates):
        cells[candidate.cell].append(place)
    sets: Counter[str] = Counter()
    specialties: Counter[str | None] = Counter()

    def rarity(cell: Cell) -> tuple[int, int, int]:
        return sets[cell.split], specialties[cell.specialty], cells[cell][0]

    drawn: list[Candidate] = []
    while len(drawn) < number:
        cell = min(cells, key=rarity)
        drawn.append(candidates[cells[cell].popleft()])
        sets[cell.split] += 1
        specialties[cell.specialty] += 1
        if not cells[cell]:
            del cells[cell]
    return drawn
