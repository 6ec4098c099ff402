"""Read the gold answers, and list the questions to a judge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bula.calibration import Labeller
from bula.errors import UserError
from bula.judge_attacks import Attacked, attack_rows, read_attacks
from bula.params import Calibrate
from bula.records import Row, read_rows

FIX = "see data/demo/gold.jsonl for the form, and calibrate.gold for the name"


class Gold(BaseModel):
    """One gold answer with the scores of a person."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str
    area: str
    question: str
    reference: str
    answer: str
    accuracy: Literal[1, 2, 3]
    style: Literal[1, 2, 3]
    labelled_by: Labeller
    """Who gave the scores; `clinician` is for a person who may practise."""


class Questions(NamedTuple):
    """All rows that a judge is asked about."""

    gold: list[Row]
    attacked: list[Attacked]
    repeated: dict[str, list[Row]]
    """Repetitions of gold answers, by the id of the answer."""

    @property
    def rows(self) -> list[Row]:
        """Return all rows; no two of them have the same id."""
        rows = [*self.gold, *(pair.row for pair in self.attacked)]
        for repetitions in self.repeated.values():
            rows += repetitions
        return rows


def read_questions(settings: Calibrate) -> Questions:
    """Return all that a judge is asked.

    Only answers with a text are attacked or repeated, because the others get their scores without
    the judge. Raise UserError if a file is missing or damaged.
    """
    gold = read_gold(Path(settings.gold), settings.items)
    attacks = read_attacks(Path(settings.attacks), settings.attack_items)
    with_text = [row for row in gold if row["answer"].strip()]
    repeated = repeat_rows(with_text[: settings.repeat_items], settings.repeats)
    return Questions(gold, attack_rows(with_text, attacks), repeated)


def read_gold(path: Path, limit: int) -> list[Row]:
    """Return the first `limit` gold answers.

    Raise UserError if the file is missing or empty, if a row is damaged or repeated, or if no
    answer has a text.
    """
    if not path.exists():
        raise UserError(path, "this file does not exist", FIX)
    checked = [check_gold(row, path) for row in read_rows(path)]
    rows = checked[:limit]
    if not rows:
        raise UserError(path, "it is empty", FIX)
    if not any(row["answer"].strip() for row in rows):
        raise UserError(path, "no gold answer has a text, so there is nothing to judge", FIX)
    ids = {row["id"] for row in rows}
    if len(ids) < len(rows):
        raise UserError(path, "two gold answers have the same id", FIX)
    return rows


def check_gold(row: Row, path: Path) -> Row:
    """Return a gold answer in the form that the judge reads.

    The error names the first wrong field and never shows its content.
    """
    try:
        gold = Gold.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        what = f"it contains a row that is not a gold answer ({field}: {first['msg']})"
        raise UserError(path, what, FIX) from None
    return gold.model_dump() | {"split": gold.area}


def repeat_rows(rows: Sequence[Row], repeats: int) -> dict[str, list[Row]]:
    """Return `repeats` - 1 repetitions of each row, by its id.

    Each repetition has its own number, so that the ledger keeps a verdict for each.
    """
    repeated: dict[str, list[Row]] = {}
    if repeats == 1:
        return repeated
    for row in rows:
        copies = []
        for number in range(1, repeats):
            copies.append({**row, "id": f"{row['id']}+repeat-{number}", "repeat": number})
        repeated[row["id"]] = copies
    return repeated
