"""Find and mask personal data of Brazil in text (LGPD, Lei 13.709/2018).

preprocess checks the rows that are trained and tested on, and generate checks a model's answers.
One module finds one kind of data, by patterns, check digits and lists of names. `kinds.py` lists
the kinds, and `public_services.py` keeps what belongs to no person.
"""

from collections.abc import Callable, Iterable

from bula.privacy import (
    addresses,
    births,
    contacts,
    councils,
    documents,
    health_numbers,
    identity_cards,
    names,
    phones,
)
from bula.privacy.kinds import PERSONAL_DATA_KINDS, PLACEHOLDER, Finding
from bula.privacy.public_services import is_public

__all__ = ["PERSONAL_DATA_KINDS", "PLACEHOLDER", "Finding", "find_personal_data", "redact"]

# Word processors write many hyphens, spaces and digits. Each is replaced by one character, so that
# positions in the text stay the same.
HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
SPACES = "\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000\t"
FULL_WIDTH_DIGITS = "０１２３４５６７８９"
PLAIN = str.maketrans(
    HYPHENS + SPACES + FULL_WIDTH_DIGITS,
    "-" * len(HYPHENS) + " " * len(SPACES) + "0123456789",
)
RECOGNISERS = (
    contacts.EMAILS,
    documents.RECOGNISER,
    contacts.PIX_KEYS,
    births.RECOGNISER,
    identity_cards.RECOGNISER,
    councils.RECOGNISER,
    health_numbers.CARDS,
    health_numbers.RECORDS,
    addresses.RECOGNISER,
    phones.RECOGNISER,
    contacts.HANDLES,
    names.RECOGNISER,
)


def find_personal_data(
    text: str, find_names: Callable[[str], Iterable[Finding]] | None = None
) -> list[Finding]:
    """Return the personal data of a text.

    The findings are in order and do not overlap. A finding does not include the word that names it,
    except for CRM and other councils. `find_names` is a further search for names, by a model.
    """
    plain = text.translate(PLAIN)
    digits = sum(plain.count(digit) for digit in "0123456789")
    candidates: list[Finding] = list(find_names(plain)) if find_names else []
    for recogniser in RECOGNISERS:
        if digits >= recogniser.digits and recogniser.sign in plain:
            candidates.extend(recogniser.find(plain))
    return [finding for finding in _merge_all(candidates) if not is_public(plain, finding)]


def redact(text: str, findings: list[Finding]) -> str:
    """Return the text with a placeholder such as [CPF] for each finding."""
    for finding in sorted(findings, key=lambda finding: finding.start, reverse=True):
        before = text[: finding.start]
        after = text[finding.end :]
        text = before + PLACEHOLDER[finding.kind] + after
    return text


def _merge_all(candidates: list[Finding]) -> list[Finding]:
    """Return findings in order, with one finding for those that overlap."""
    found: list[Finding] = []
    for finding in sorted(candidates, key=lambda finding: finding.start):
        if found and finding.start < found[-1].end:
            finding = _merge(found.pop(), finding)
        found.append(finding)
    return found


def _merge(one: Finding, other: Finding) -> Finding:
    """Return one finding that covers two overlapping findings.

    `one` starts first. A shorter result would leave digits of a number in the text.
    """
    kind = min(one.kind, other.kind, key=PERSONAL_DATA_KINDS.index)
    return Finding(kind, one.start, max(one.end, other.end))
