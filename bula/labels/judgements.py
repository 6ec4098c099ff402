"""Read the files of raters, and join them with their key.

All faults of all files are collected, so that a rater corrects a file once.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from bula.errors import UserError
from bula.labels.files import faults_of
from bula.labels.raters import LabelKind, Raters
from bula.labels.records import (
    JUDGEMENT,
    AnswerDraft,
    AnswerJudgement,
    AnswerLabel,
    Header,
    Key,
    KeyItem,
    KeyPair,
    Label,
    PairJudgement,
    PairLabel,
    answer_sha256,
    is_draft,
)
from bula.privacy import find_personal_data
from bula.records import read_rows, refuse_constant

KINDS: dict[Raters, LabelKind] = {"author": "author_labels", "clinician": "clinician_labels"}
# An import with more faults than this shows the first ones.
SHOWN_FAULTS = 50

AnyJudgement = AnswerJudgement | PairJudgement
AnyRow = AnyJudgement | AnswerDraft
# JSON values, and judgements, with their line numbers.
Rows = list[tuple[int, Any]]
Judgements = list[tuple[int, AnyJudgement]]
FormRows = list[tuple[int, AnyRow]]


class Fault(NamedTuple):
    """One fault of a file, with its line."""

    line: int
    what: str


class Form(NamedTuple):
    """The contents of one rater's file."""

    path: Path
    header: Header
    rows: Judgements
    unfinished: int
    """The number of judgements that the rater began and did not finish."""


class Imported(NamedTuple):
    """The labels of some files, and the number of unfinished judgements by rater."""

    labels: list[Label]
    unfinished: dict[str, int]


class Kit(NamedTuple):
    """The key of a kit, by id."""

    name: str
    items: Mapping[str, KeyItem]
    pairs: Mapping[str, KeyPair]
    repeats: Mapping[str, str]
    """The first item with the same answer, for each item that only repeated pairs have."""


def read_key(path: Path) -> Kit:
    """Return a kit's key; a UserError reports damage."""
    fix = "name the key.json that `python -m bula review-kit` wrote with the page"
    try:
        key = Key.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(path, f"it cannot be read ({error.strerror})", fix) from None
    except ValidationError as error:
        raise UserError(path, f"it is no key ({faults_of(error)})", fix) from None
    items = {item.item: item for item in key.items}
    pairs = {pair.pair: pair for pair in key.pairs}
    return Kit(key.kit, items, pairs, _repeats(items, pairs))


def _repeats(items: Mapping[str, KeyItem], pairs: Mapping[str, KeyPair]) -> dict[str, str]:
    """Return the first item with the same answer, by repeated item."""
    repeats = {}
    firsts = {item for pair in pairs.values() if not pair.repeat_of for item in sides(pair)}
    for pair in pairs.values():
        if pair.repeat_of is None:
            continue
        originals = {_answer(items[item]): item for item in sides(pairs[pair.repeat_of])}
        for item in sides(pair):
            if item not in firsts:
                repeats[item] = originals[_answer(items[item])]
    return repeats


def sides(pair: KeyPair) -> tuple[str, str]:
    """Return the items of a pair."""
    return pair.left, pair.right


def _answer(item: KeyItem) -> tuple[str, str, str]:
    """Return what identifies the answer behind an item."""
    return item.variant, item.id, item.sha256


def import_forms(paths: Sequence[Path], kit: Kit, raters: Raters, answers: Path | None) -> Imported:
    """Return the labels of all files, without unfinished judgements.

    `answers` is the folder with the answers that must still be those of the kit; None checks
    nothing. Raise UserError with all faults of all files.
    """
    faults = changed_answers(kit, answers) if answers else []
    forms = []
    for path in paths:
        form, found = read_form(path, kit)
        faults += found
        if form:
            forms.append(form)
    faults += repeated_raters(forms)
    if faults:
        raise faults_error(faults)
    labels = [label for form in forms for label in to_labels(form, kit, KINDS[raters])]
    return Imported(labels, {form.header.rater: form.unfinished for form in forms})


def faults_error(faults: Sequence[str]) -> UserError:
    """Return the error that lists faults, one per line."""
    noun = "fault" if len(faults) == 1 else "faults"
    lines = [f"{len(faults)} {noun}, and nothing was written", *faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        lines.append(f"and {len(faults) - SHOWN_FAULTS} more")
    fix = "correct the page's answers and export them again, or correct the named files"
    return UserError("labels import", "\n".join(lines), fix)


def changed_answers(kit: Kit, folder: Path) -> list[str]:
    """Return a fault per variant whose answers are not those that the raters saw."""
    faults = []
    for variant in sorted({item.variant for item in kit.items.values()}):
        path = folder / f"{variant}.jsonl"
        wanted = {item.id: item.sha256 for item in kit.items.values() if item.variant == variant}
        found = answer_hashes(path) if path.is_file() else {}
        changed = [name for name, sha256 in wanted.items() if found.get(name) != sha256]
        if changed:
            faults.append(
                f"{path}: {len(changed)} of {len(wanted)} answers of the kit have another text or "
                f"are missing (first: {changed[0]}); restore the judged answers (`dvc checkout`), "
                "or import the labels of another run by --past-answers"
            )
    return faults


def answer_hashes(path: Path) -> dict[str, str]:
    """Return the hash of each answer in a file of answers, by question id."""
    return {str(row.get("id")): answer_sha256(str(row.get("generated"))) for row in read_rows(path)}


def read_form(path: Path, kit: Kit) -> tuple[Form | None, list[str]]:
    """Return the contents of a rater's file, and its faults by line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, [f"{path}: it cannot be read ({error.strerror})"]
    rows, faults = read_lines(content)
    if not rows and not faults:
        return None, [f"{path}: the file contains no row"]
    form = _form(path, rows, kit, faults)
    return form, [f"{path}:{fault.line}: {fault.what}" for fault in sorted(faults)]


def read_lines(content: bytes) -> tuple[Rows, list[Fault]]:
    """Return the JSON values of a file with their line numbers, and the faults.

    Empty lines, and a byte order mark that an editor added, are ignored.
    """
    rows: Rows = []
    faults = []
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line.decode(), parse_constant=refuse_constant)))
        except UnicodeDecodeError:
            faults.append(Fault(number, "not UTF-8"))
        except (ValueError, RecursionError):
            faults.append(Fault(number, "not JSON"))
    return rows, faults


def _form(path: Path, rows: Rows, kit: Kit, faults: list[Fault]) -> Form | None:
    """Return the judgements of a file, and add its faults to the list."""
    if not rows:
        return None
    header = _header(rows[0], kit, faults)
    if header is None:
        # The ids of another kit are unknown, so further faults would say nothing.
        return None
    found = _judgements(rows[1:], faults)
    faults += _repeated(found)
    for number, row in found:
        faults += [Fault(number, what) for what in judgement_faults(row, kit)]
    finished: Judgements = [
        (number, row) for number, row in found if not isinstance(row, AnswerDraft)
    ]
    unfinished = len(found) - len(finished)
    # A row with a fault was meant as a judgement.
    if len(rows) - 1 == unfinished:
        faults.append(Fault(rows[0][0], "the file has no finished judgement after this row"))
    return Form(path, header, finished, unfinished)


def _judgements(rows: Rows, faults: list[Fault]) -> FormRows:
    """Return the judgements and drafts, and add faults to the list."""
    found: FormRows = []
    for number, row in rows:
        try:
            if is_draft(row):
                found.append((number, AnswerDraft.model_validate(row)))
            else:
                found.append((number, JUDGEMENT.validate_python(row)))
        except ValidationError as error:
            faults.append(Fault(number, faults_of(error)))
    return found


def _header(first: tuple[int, Any], kit: Kit, faults: list[Fault]) -> Header | None:
    """Return a header of this kit, or add its fault to the list."""
    number, row = first
    try:
        header = Header.model_validate(row)
    except ValidationError as error:
        what = f"it is no header of a rater's file ({faults_of(error)})"
        faults.append(Fault(number, what))
        return None
    if header.kit != kit.name:
        what = f"the file belongs to kit {header.kit}, and the key to {kit.name}"
        faults.append(Fault(number, what))
        return None
    return header


def _repeated(judgements: FormRows) -> Iterator[Fault]:
    """Yield a fault for each second judgement of one item or pair."""
    lines: dict[str, int] = {}
    for number, judgement in judgements:
        name = judged(judgement)
        if name in lines:
            yield Fault(number, f"line {lines[name]} judges {name} too")
        lines.setdefault(name, number)


def judged(judgement: AnyRow) -> str:
    """Return the id of what a judgement is about."""
    return judgement.item if judgement.type == "answer" else judgement.pair


def judgement_faults(judgement: AnyRow, kit: Kit) -> Iterator[str]:
    """Yield what is wrong with a judgement, without words of its note."""
    if judgement.type == "pair":
        if judgement.pair not in kit.pairs:
            yield f"the key has no pair {judgement.pair}"
        return
    item = kit.items.get(judgement.item)
    if item is None:
        yield f"the key has no item {judgement.item}"
        return
    scored = len(judgement.sentences)
    if scored != item.sentences:
        yield f"{scored} of {item.sentences} sentences have a score"
    # The note of a draft goes nowhere.
    if isinstance(judgement, AnswerDraft):
        return
    kinds = sorted({finding.kind for finding in find_personal_data(judgement.note)})
    if kinds:
        yield f"the note has personal data ({', '.join(kinds)}); remove it on the page"


def repeated_raters(forms: Sequence[Form]) -> list[str]:
    """Return a fault for each code that several files have."""
    counts = Counter(form.header.rater for form in forms)
    faults = []
    for rater, count in counts.items():
        if count > 1:
            paths = ", ".join(str(form.path) for form in forms if form.header.rater == rater)
            faults.append(f"{paths}: {count} files have the rater {rater}; each person has a code")
    return faults


def to_labels(form: Form, kit: Kit, kind: LabelKind) -> Iterator[Label]:
    """Yield the labels of one rater."""
    who = {"labels": kind, "kit": kit.name, "rater": form.header.rater}
    for _, judgement in form.rows:
        if judgement.type == "answer":
            yield answer_label(judgement, kit, who)
        else:
            yield pair_label(judgement, kit, who)


def answer_label(judgement: AnswerJudgement, kit: Kit, who: Mapping[str, Any]) -> AnswerLabel:
    """Return the label of one answer."""
    item = kit.items[judgement.item]
    return AnswerLabel(
        **who,
        **judgement.model_dump(),
        id=item.id,
        set=item.set,
        variant=item.variant,
        sha256=item.sha256,
        repeat_of=kit.repeats.get(item.item),
        weight=item.weight,
        level=item.level,
    )


def pair_label(judgement: PairJudgement, kit: Kit, who: Mapping[str, Any]) -> PairLabel:
    """Return the label of one pair."""
    pair = kit.pairs[judgement.pair]
    left, right = kit.items[pair.left], kit.items[pair.right]
    return PairLabel(
        **who,
        **judgement.model_dump(),
        id=left.id,
        set=left.set,
        repeat_of=pair.repeat_of,
        left=left.variant,
        left_sha256=left.sha256,
        right=right.variant,
        right_sha256=right.sha256,
        weight=pair.weight,
        level=pair.level,
    )


def merge(old: Sequence[Label], new: Sequence[Label], *, replace: bool) -> list[Label]:
    """Return old and new labels together.

    A rater may import a longer file of the same kit again. Raise UserError if it lacks or changes
    a judgement that is there, unless `replace`, or if a rater's labels have another kind.
    """
    faults = list(_conflicts(old, new, replace=replace))
    if faults:
        raise faults_error(faults)
    again = {(label.kit, label.rater) for label in new}
    kept = [label for label in old if (label.kit, label.rater) not in again]
    return [*kept, *new]


def _conflicts(old: Sequence[Label], new: Sequence[Label], *, replace: bool) -> Iterator[str]:
    """Yield a fault for each rater whose labels contradict those that are there."""
    before: dict[tuple[str, str], list[Label]] = {}
    for label in old:
        before.setdefault((label.kit, label.rater), []).append(label)
    kinds = {label.rater: label.labels for label in old}
    raters = {(label.kit, label.rater): label.labels for label in new}
    found = [_unweighted(label) for label in new]
    for (kit, rater), kind in raters.items():
        if kinds.get(rater, kind) != kind:
            yield f"rater {rater} has {kinds[rater]} already; give this person another code"
        lost = [label for label in before.get((kit, rater), []) if _unweighted(label) not in found]
        if lost and not replace:
            yield (
                f"rater {rater} of kit {kit}: the file lacks or changes {len(lost)} of the "
                "judgements that are there; give another person another code, or use --replace"
            )


def _unweighted(label: Label) -> Label:
    """Return a label without its weight, which a newer key may add."""
    return label.model_copy(update={"weight": None, "level": None})
