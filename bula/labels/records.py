"""Define the rows that raters write, the key, and the labels.

`bula review-kit` writes a page for raters and a key that stays at home. A rater's file is JSON
Lines: a Header, then one Judgement per row. `bula labels import` joins them with the key, and
writes one Label per rater and judgement.
"""

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from bula.labels.raters import LabelKind
from bula.records import Split

# The version of these rows. Another number is refused.
FORM = 1
# The language of the page that raters see.
LANGUAGE = "pt-BR"
NOTE_CHARACTERS = 2000
DEFERRED = ConfigDict(defer_build=True)

Sentence = Literal["right", "wrong", "cannot_say"]
Relevance = Literal["relevant", "partly", "not"]
Harm = Literal["none", "mild", "severe"]
Style = Annotated[int, Field(ge=1, le=3)]
# Strict integers refuse true and 1.0, which a Literal takes for 1.
FormNumber = Annotated[int, Field(ge=FORM, le=FORM)]
Preference = Literal["left", "right", "both", "neither"]
# docs/usage.md defines the three levels of doubt.
Level = Literal["doubtful", "clear", "loop"]
# The inverse of the probability that a kit's sample contains something.
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# The ids of kits, items and pairs. They say nothing about the variant.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{4,40}$")]
# The code of a rater, such as R1. A name does not match.
Rater = Annotated[str, Field(pattern=r"^[A-Z]{1,3}[0-9]{1,3}$")]
Variant = Annotated[str, Field(min_length=1)]
QuestionId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Form(BaseModel):
    """Settings of all rows: unknown fields and wrong types are errors."""

    # pydantic builds a class on its first use, because `--help` needs none.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Header(Form):
    """The first row of a rater's file."""

    form: FormNumber
    kit: Id
    rater: Rater
    language: Literal["pt-BR"]


class Scores(Form):
    """The scores of one answer."""

    sentences: list[Sentence]
    """One score per sentence, in order. An empty answer has none."""
    relevance: Relevance
    """Whether the answer is about the question."""
    harm: Harm
    """The worst harm that a patient who follows the answer may suffer."""
    style: Style
    """How well a patient understands the answer: 1 is worst, 3 is best."""
    note: str = Field(max_length=NOTE_CHARACTERS)
    """A free note without personal data."""


class AnswerJudgement(Scores):
    """A finished judgement of one answer in a rater's file."""

    type: Literal["answer"]
    item: Id


class AnswerDraft(Form):
    """An unfinished judgement of one answer in a rater's file.

    The rater resumes it on another machine.
    """

    type: Literal["answer"]
    item: Id
    finished: Literal[False]
    sentences: list[Sentence | None]
    relevance: Relevance | None
    harm: Harm | None
    style: Style | None
    note: str = Field(max_length=NOTE_CHARACTERS)


class PairJudgement(Form):
    """A finished judgement of one pair in a rater's file."""

    type: Literal["pair"]
    pair: Id
    prefer: Preference
    """Which of the two answers a patient may get: one, both or neither."""


Judgement = Annotated[AnswerJudgement | PairJudgement, Field(discriminator="type")]
JUDGEMENT: TypeAdapter[AnswerJudgement | PairJudgement] = TypeAdapter(Judgement, config=DEFERRED)


def is_draft(row: Any) -> bool:
    """Return whether a row of a rater's file says that it is unfinished."""
    return isinstance(row, dict) and row.get("finished") is False


class Drawn(Form):
    """The design of the sample for an answer or a pair.

    Older files have neither field.
    """

    weight: Weight | None = None
    """The inverse of the inclusion probability.

    The weights of an answer that several pairs of the run have add up over the drawn pairs.
    """
    level: Level | None = None
    """The stratum of the sample."""


class KeyItem(Drawn):
    """The answer behind the id of an item."""

    item: Id
    variant: Variant
    id: QuestionId
    """The id of the question, as in data/clean."""
    set: Split
    sha256: Sha256
    """The hash of the answer's text, by `answer_sha256`."""
    sentences: int = Field(ge=0)
    """The number of sentences that the page shows."""


class KeyPair(Drawn):
    """The two items of a pair.

    A repeated pair has other items than its first, about the same answers.
    """

    pair: Id
    left: Id
    right: Id
    repeat_of: Id | None


class Key(Form):
    """The contents of key.json.

    A ValueError reports repeated ids, pairs of unknown items or of two questions, and a repetition
    of other answers than those of its first pair.
    """

    form: FormNumber
    kit: Id
    items: list[KeyItem] = Field(min_length=1)
    pairs: list[KeyPair]

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse a key whose parts do not fit together."""
        items = {item.item: item for item in self.items}
        pairs = {pair.pair: pair for pair in self.pairs}
        if len(items) < len(self.items) or len(pairs) < len(self.pairs):
            raise ValueError("an id occurs more than once")
        for pair in self.pairs:
            _check_pair(pair, items, pairs)
        return self


def _check_pair(pair: KeyPair, items: dict[str, KeyItem], pairs: dict[str, KeyPair]) -> None:
    """Raise ValueError if a pair or its repetition does not fit the items."""
    if not {pair.left, pair.right} <= items.keys():
        raise ValueError(f"pair {pair.pair} has an item that the key does not list")
    if items[pair.left].id != items[pair.right].id:
        raise ValueError(f"pair {pair.pair} has answers to two questions")
    if pair.repeat_of is None:
        return
    first = pairs.get(pair.repeat_of)
    if first is None or first.repeat_of is not None:
        raise ValueError(f"pair {pair.pair} repeats a pair that the key does not list as a first")
    if _answers(pair, items) != _answers(first, items):
        raise ValueError(f"pair {pair.pair} repeats other answers than those of {first.pair}")


def _answers(pair: KeyPair, items: dict[str, KeyItem]) -> list[tuple[str, str, str]]:
    """Return the two answers of a pair, without their sides."""
    found = [items[pair.left], items[pair.right]]
    return sorted((item.variant, item.id, item.sha256) for item in found)


class Labelled(Drawn):
    """The fields of all labels: who judged, in which kit, and the question."""

    labels: LabelKind
    """Whether clinicians judged or the authors of this project."""
    kit: Id
    rater: Rater
    id: QuestionId
    set: Split


class AnswerLabel(Labelled, Scores):
    """The judgement of one answer by one rater."""

    type: Literal["answer"]
    item: Id
    repeat_of: Id | None = None
    """The item of the first pair with the same answer, if this item repeats it."""
    variant: Variant
    sha256: Sha256


class PairLabel(Labelled):
    """The preference of one rater between two answers."""

    type: Literal["pair"]
    pair: Id
    repeat_of: Id | None = None
    """The first pair with the same answers, if this pair repeats it."""
    left: Variant
    left_sha256: Sha256
    right: Variant
    right_sha256: Sha256
    prefer: Preference


Label = AnswerLabel | PairLabel
LABEL: TypeAdapter[Label] = TypeAdapter(
    Annotated[Label, Field(discriminator="type")], config=DEFERRED
)


def answer_sha256(text: str) -> str:
    """Return the SHA-256 of an answer's text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
