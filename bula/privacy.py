"""Find and mask personal data of Brazil in text (LGPD, Lei 13.709/2018).

preprocess checks the rows that are trained and tested on, and generate checks a model's answers.
Numbers with check digits (CPF, CNPJ, CNS) count only if validate-docbr accepts them, and telephones
only if phonenumbers knows such a number, so a dose, a date or a lot number is not taken for a
document. Data without a check digit (RG, CRM, date of birth, address) count only beside the words
that name them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import phonenumbers
from phonenumbers import PhoneNumberMatch
from validate_docbr import CNPJ, CNS, CPF

from bula import privacy_patterns as patterns

# Where two findings overlap, the earlier kind wins: a CPF can look like a mobile number.
PERSONAL_DATA_KINDS = ("email", "cpf", "cnpj", "cns", "birth_date", "rg", "crm", "address", "phone")
PLACEHOLDER = {
    "email": "[E-MAIL]",
    "cpf": "[CPF]",
    "cnpj": "[CNPJ]",
    "cns": "[CNS]",
    "birth_date": "[DATA DE NASCIMENTO]",
    "rg": "[RG]",
    "crm": "[CRM]",
    "address": "[ENDEREÇO]",
    "phone": "[TELEFONE]",
}
# Word processors write many hyphens, spaces and digits. Each is replaced by one character, so that
# positions in the text stay the same.
HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
SPACES = "\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000\t"
FULL_WIDTH_DIGITS = "０１２３４５６７８９"
PLAIN = str.maketrans(
    HYPHENS + SPACES + FULL_WIDTH_DIGITS,
    "-" * len(HYPHENS) + " " * len(SPACES) + "0123456789",
)
DOCUMENTS = (
    ("cpf", CPF(), patterns.CPF),
    ("cpf", CPF(), patterns.NAMED_CPF),
    ("cnpj", CNPJ(), patterns.CNPJ),
    ("cns", CNS(), patterns.CNS),
)
NAMED = (
    ("birth_date", patterns.BIRTH_BEFORE_DATE),
    ("birth_date", patterns.BIRTH_AFTER_DATE),
    ("rg", patterns.RG),
    ("crm", patterns.CRM),
    ("address", patterns.CEP),
)
ADDRESSES = (
    patterns.STREET_ADDRESS,
    patterns.R_ADDRESS,
    patterns.PLACE_ADDRESS,
    patterns.SMALL_LETTER_ADDRESS,
)
# The fewest digits that a finding can have; no rule runs on a text with fewer.
DOCUMENT_DIGITS = 11
NAMED_DIGITS = 3
PHONE_DIGITS = 8
# A number beside its name needs more digits. A date does not: "8 de março de 85" has three.
NUMBER_DIGITS = 4
# The longest word for a telephone and the text allowed after it. A search through all the text
# before each number would take quadratic time.
WORD_REACH = 45
# Area code and local number.
NATIONAL_DIGITS = 10


class Finding(NamedTuple):
    """The kind and the place of personal data, as a slice of the text."""

    kind: str
    start: int
    end: int


def find_personal_data(text: str) -> list[Finding]:
    """Return the personal data of a text.

    The findings are in order and do not overlap. A finding does not include the word that names it,
    except for CRM.
    """
    plain = text.translate(PLAIN)
    digits = sum(plain.count(digit) for digit in "0123456789")
    if not digits and "@" not in plain:
        return []
    found: list[Finding] = []
    for finding in sorted(_candidates(plain, digits), key=lambda finding: finding.start):
        if found and finding.start < found[-1].end:
            finding = _merge(found.pop(), finding)
        found.append(finding)
    return found


def redact(text: str, findings: list[Finding]) -> str:
    """Return the text with a placeholder such as [CPF] for each finding."""
    for finding in sorted(findings, key=lambda finding: finding.start, reverse=True):
        before = text[: finding.start]
        after = text[finding.end :]
        text = before + PLACEHOLDER[finding.kind] + after
    return text


def _merge(one: Finding, other: Finding) -> Finding:
    """Return one finding that covers two overlapping findings.

    `one` starts first. A shorter result would leave digits of a number in the text.
    """
    kind = min(one.kind, other.kind, key=PERSONAL_DATA_KINDS.index)
    return Finding(kind, one.start, max(one.end, other.end))


def _candidates(text: str, digits: int) -> Iterator[Finding]:
    """Yield the findings of all rules, which may overlap.

    `digits` is the number of digits in the text; rules that need more are skipped.
    """
    if "@" in text:
        yield from _find("email", patterns.EMAIL, text)
        yield from _find("email", patterns.SPACED_EMAIL, text)
    if digits >= DOCUMENT_DIGITS:
        yield from _documents(text)
    if digits >= NAMED_DIGITS:
        yield from _named_numbers(text)
    if digits:
        yield from _addresses(text, digits)
    if digits >= PHONE_DIGITS:
        yield from _local_phones(text)
        yield from _national_phones(text)


def _find(kind: str, pattern: re.Pattern[str], text: str) -> Iterator[Finding]:
    """Yield every match of a pattern."""
    for match in pattern.finditer(text):
        yield Finding(kind, match.start(), match.end())


def _documents(text: str) -> Iterator[Finding]:
    """Yield the documents whose check digits are correct."""
    for kind, document, pattern in DOCUMENTS:
        for match in pattern.finditer(text):
            number = re.sub(r"[^\dA-Z]", "", match[1])
            if document.validate(number):
                yield Finding(kind, match.start(1), match.end(1))


def _named_numbers(text: str) -> Iterator[Finding]:
    """Yield the numbers and dates that stand beside their names."""
    for kind, pattern in NAMED:
        for match in pattern.finditer(text):
            # A pattern has one group per form of the value, or none if the match is the value.
            group = match.lastindex or 0
            digits = sum(character.isdigit() for character in match[group])
            if kind == "birth_date" or digits >= NUMBER_DIGITS:
                yield Finding(kind, match.start(group), match.end(group))


def _addresses(text: str, digits: int) -> Iterator[Finding]:
    """Yield streets with a number, and post codes.

    A post code without the word CEP counts only in a text with a street, or with a city and its
    state.
    """
    streets: list[Finding] = []
    for pattern in ADDRESSES:
        streets += _find("address", pattern, text)
    yield from streets
    if digits >= PHONE_DIGITS and (streets or patterns.CITY.search(text)):
        yield from _find("address", patterns.BARE_CEP, text)


def _local_phones(text: str) -> Iterator[Finding]:
    """Yield the local numbers after a word for telephone."""
    for match in patterns.LOCAL_PHONE.finditer(text):
        gap, number = match.groups()
        is_bare = re.fullmatch(r"\d{8}", number)
        if is_bare and patterns.COUNTED.search(gap):
            continue
        if patterns.SERVICE.match(number) or patterns.YEARS.match(number):
            continue
        if not patterns.UNIT_AFTER.match(text, match.end()):
            yield from _with_next_phone(text, match.start(2), match.end(2))


def _national_phones(text: str) -> Iterator[Finding]:
    """Yield the telephones that phonenumbers accepts."""
    for match in phonenumbers.PhoneNumberMatcher(text, "BR", phonenumbers.Leniency.VALID):
        if patterns.UNIT_AFTER.match(text, match.end):
            continue
        if _is_personal(match) and _is_marked(match, text):
            yield from _with_next_phone(text, match.start, match.end)


def _is_personal(match: PhoneNumberMatch) -> bool:
    """Return whether a number may belong to a person.

    Such a number has an area or country code, and is not the number of a service (0800).
    """
    national = str(match.number.national_number)
    is_complete = len(national) >= NATIONAL_DIGITS or match.raw_string.startswith("+")
    return is_complete and not re.match(r"[3589]00", national)


def _is_marked(match: PhoneNumberMatch, text: str) -> bool:
    """Return whether its form or a word marks a number as telephone.

    A mobile number needs neither, unless another word names it (a protocol, a lot).
    """
    before = text[max(0, match.start - WORD_REACH) : match.start]
    if patterns.PHONE_WORD_BEFORE.search(before) or patterns.PHONE_FORM.search(match.raw_string):
        return True
    if not patterns.MOBILE.fullmatch(match.raw_string):
        return False
    return not patterns.OTHER_NAME_BEFORE.search(before)


def _with_next_phone(text: str, start: int, end: int) -> Iterator[Finding]:
    """Yield a telephone, and a local number right after it."""
    yield Finding("phone", start, end)
    following = patterns.NEXT_PHONE.match(text, end)
    if following:
        yield Finding("phone", following.start(1), following.end(1))
