"""Personal data of Brazil in text (LGPD, Lei 13.709/2018): found, verified where a check digit allows it, and masked.

preprocess looks through the rows that are trained and tested on, generate through what a model answers. Numbers with check
digits (CPF, CNPJ, CNS) count only if validate-docbr accepts them and telephones only if phonenumbers knows such a number, so
that a dose, a date or a lot number is not taken for a document. What has no check digit (RG, CRM, date of birth, address)
counts only beside the words that name it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import phonenumbers
from validate_docbr import CNPJ, CNS, CPF

# Where two findings overlap, the earlier kind stays: an eleven-digit CPF can read like a mobile number.
KINDS = ("email", "cpf", "cnpj", "cns", "birth_date", "rg", "crm", "address", "phone")
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


class Finding(NamedTuple):
    """One piece of personal data: what it is, and where it stands (Python slice of the text)."""

    kind: str
    start: int
    end: int


# Word processors put hyphens, spaces and digits of many kinds; one for one, so that places in the text stay what they are.
PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000\t", " ")
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)
# A document's digits may be glued, or parted by up to three signs of punctuation and spaces; and no digit goes before.
GAP = r"[ .,\-/]{0,3}"
START = r"(?<!\d)(?<!\d[.,])"
DOCUMENTS = (
    ("cpf", CPF(), re.compile(rf"{START}\d{{3}}{GAP}\d{{3}}{GAP}\d{{3}}{GAP}\d{{2}}(?!\d)")),
    ("cnpj", CNPJ(), re.compile(rf"{START}(?<![A-Z])[\dA-Z]{{2}}{GAP}[\dA-Z]{{3}}{GAP}[\dA-Z]{{3}}{GAP}[\dA-Z]{{4}}{GAP}\d{{2}}(?!\d)")),
    ("cns", CNS(), re.compile(rf"{START}[1-25-9]\d{{2}}{GAP}\d{{4}}{GAP}\d{{4}}{GAP}\d{{4}}(?!\d)")),
)
EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}")

STATES = "AC|AL|AP|AM|BA|CE|DF|ES|GO|MA|MT|MS|MG|PA|PB|PR|PE|PI|RJ|RN|RS|RO|RR|SC|SP|SE|TO"
CRM = re.compile(
    rf"\bCRMM?[ ./:-]{{0,6}}(?:(?:{STATES})\b)?(?:{STATES})?[ ./:nNº°ro-]{{0,8}}\d[\d.]{{1,9}}\d(?:-\d{{1,4}})?"
    rf"(?:[ ]?[/-]?[ ]?\(?(?:{STATES})\b\)?)?",
    re.IGNORECASE,
)
RG_NAME = r"(?:\bR\.?G\.?|\b[Ii]dentidade|\b[Rr]egistro [Gg]eral|\bIDENTIDADE|\bREGISTRO GERAL|\brg)"
ISSUER = rf"(?:[ ,/-]{{0,3}}SSP[ /-]{{0,3}}(?:{STATES})\b)?"
RG = re.compile(
    rf"{RG_NAME}(?![ ]*\d{{1,3}}\b(?!\.))[^\d\n]{{0,20}}?"
    rf"((?:(?:{STATES})[ -]{{0,3}})?\d{{1,3}}\.?\d{{3}}\.?\d{{3}}(?:[ ]?-[ ]?[\dXx]{{1,2}})?\b{ISSUER}"
    rf"|\d{{5,10}}[\dXx]?(?:-[\dXx]{{1,2}})?\b{ISSUER})",
)

MONTHS = "janeiro|fevereiro|março|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro"
DATE = (
    r"(?:(?<!\d)(?:0?[1-9]|[12]\d|3[01])[ ]?[/.-][ ]?(?:0?[1-9]|1[0-2])[ ]?[/.-][ ]?(?:\d{4}|\d{2})(?![\d/])"
    r"|(?<!\d)(?:19|20)\d{2}[-/](?:0[1-9]|1[0-2])[-/](?:0[1-9]|[12]\d|3[01])(?!\d)"
    rf"|(?<!\d)(?:[1-9]|0[1-9]|[12]\d|3[01]|1º)[º°]?(?: do?e?)? (?:{MONTHS})(?:,| de)? (?:de )?\d{{4}}(?!\d))"
)
BIRTH = (
    r"(?<!recém-)(?<!recém )(?:nascid[oa]s?|nasci|nasceu|nasceram|nascimento|data[ ]de[ ]nasc|dt\.?[ ]?nasc|nasc\.|\bd\.?[ ]?n\.?(?=[ :.]))"
)
BIRTH_BEFORE = re.compile(
    rf"{BIRTH}(?!\w)[^\d.;!?\n]{{0,40}}?({DATE})|\bd\.n\.[ :]{{0,3}}({DATE})|nasc\.[^\d\n]{{0,12}}({DATE})", re.IGNORECASE
)
BIRTH_AFTER = re.compile(rf"({DATE})[^\d.;!?\n]{{0,25}}?(?:data de nascimento|nascimento\b)", re.IGNORECASE)

STREET = (
    r"(?:[Rr]ua|RUA|R\.|[Aa]venida|AVENIDA|[Aa]v\.?|AV\.?|[Tt]ravessa|TRAVESSA|[Tt]v\.|[Tt]rav\.|[Aa]lameda|[Pp]raça|[Pp]ça\.?"
    r"|[Rr]odovia|[Rr]od\.|[Ee]strada|[Ee]str\.|[Ll]argo|[Bb]eco|[Vv]iela|[Ll]adeira|[Vv]ila|[Cc]onjunto|[Qq]uadra)"
)
NAME = r"(?:[A-ZÀ-Ý][\wÀ-ÿ.'-]*|d[aeo]s?|e|\d{1,2} de [A-Za-zç]+)"
NUMBER = r"(?:n[º°.o]{0,2}\.?[ ]?|número[ ]|num\.?[ ]|casa[ ])?\d{1,5}(?:[ ]?-?[ ]?[A-D]\b)?"
NO_NUMBER = r"(?![\d/:]|[.,]\d|[ ]?(?:h|horas|minutos|min|vezes|anos|dias|km|metros)\b)"
ADDRESS = re.compile(rf"\b{STREET}[ ]+{NAME}(?:[ ]{NAME}){{0,6}}(?:[ ]?[,–-][ ]?|[ ]){NUMBER}{NO_NUMBER}")
CEP = re.compile(r"\bCEP[^\d\n]{0,12}(\d{2}\.?\d{3}-?\d{3})(?!\d)", re.IGNORECASE)
# Without the word, five digits, a hyphen and three are a post code only where a street or a city with its state stands too.
BARE_CEP = re.compile(r"(?<![\d.,-])\d{5}-\d{3}(?![\d-])")
CITY = re.compile(rf"[a-zà-ÿ] ?[/,–-] ?(?:{STATES})\b")

NAMED = (("birth_date", BIRTH_BEFORE), ("birth_date", BIRTH_AFTER), ("rg", RG), ("crm", CRM), ("address", CEP))

PHONE_WORD = (
    r"(?:telefones?|tel\b\.?|fones?\b|celular(?:es)?|cel\b\.?|whats(?:app)?|zap|ligue|ligar|liga|chama[rm]?"
    r"|contatos?|recado|ramal|meu número)"
)
LOCAL = r"9?[ ]?\d{4}[ .-]?\d{4}"
LOCAL_PHONE = re.compile(rf"{PHONE_WORD}[^\d\n]{{0,30}}?(?<!\d)({LOCAL})(?![\d-])", re.IGNORECASE)
# A second number after the first: "99999-8888 ou 98888-7777".
NEXT_PHONE = re.compile(rf"^[ ]?(?:ou|e|/|,)[ ]?({LOCAL})(?![\d-])", re.IGNORECASE)
# Written as a telephone: an area code in brackets or a country code, or a hyphen or space before the last four digits.
PHONE_FORM = re.compile(r"^\+|^\(|\d{4}[ .-]\d{4}$")
YEARS = re.compile(r"^(?:19|20)\d{2}[ .-](?:19|20)\d{2}$")
MEASURED = re.compile(r"^[ ]?(?:c[óo]pias|UI\b|U/|m[gl]\b|mc?g\b|/ ?[a-zµ]|%|mm|células|cel/|unidades)")


def find(text: str) -> list[Finding]:
    """Personal data of a text, in order, without overlaps; spans leave out the word that names them, but for CRM."""
    plain = text.translate(PLAIN)
    digits = sum(map(plain.count, "0123456789"))
    if not digits and "@" not in plain:
        return []
    found: list[Finding] = []
    for finding in sorted(_candidates(plain, digits), key=lambda f: KINDS.index(f.kind)):
        over = [other for other in found if finding.start < other.end and other.start < finding.end]
        # Where findings overlap, the first kind gets the whole stretch: half a number left over is a number still.
        kind, start, end = over[0] if over else finding
        found = [other for other in found if other not in over]
        found.append(Finding(kind, min([start, finding.start, *(o.start for o in over)]), max([end, finding.end, *(o.end for o in over)])))
    return sorted(found, key=lambda f: f.start)


def _candidates(text: str, digits: int) -> Iterator[Finding]:
    """Everything that any rule finds, overlaps included; a rule that needs more digits than the text has is not tried."""
    if "@" in text:
        yield from (Finding("email", *match.span()) for match in EMAIL.finditer(text))
    if digits >= 11:
        for kind, document, pattern in DOCUMENTS:
            for match in pattern.finditer(text):
                if document.validate(re.sub(r"[^\dA-Z]", "", match.group())):
                    yield Finding(kind, *match.span())
    if digits >= 4:
        for kind, pattern in NAMED:
            for match in pattern.finditer(text):
                group = next((n for n, value in enumerate(match.groups(), start=1) if value), 0)
                if sum(c.isdigit() for c in match.group(group)) >= 4:
                    yield Finding(kind, *match.span(group))
    if digits:
        yield from (Finding("address", *match.span()) for match in ADDRESS.finditer(text))
    if digits >= 8:
        if ADDRESS.search(text) or CITY.search(text):
            yield from (Finding("address", *match.span()) for match in BARE_CEP.finditer(text))
        yield from _phones(text)


def _phones(text: str) -> Iterator[Finding]:
    """Telephones: what phonenumbers accepts and is written like one or called one, and local numbers that are called one."""
    for match in LOCAL_PHONE.finditer(text):
        if not MEASURED.match(text[match.end(1) :]) and not YEARS.match(match.group(1).strip()):
            yield from _with_next(text, *match.span(1))
    # Toll-free numbers (0800) have eleven digits too, but belong to services, never to a person.
    for number in phonenumbers.PhoneNumberMatcher(text, "BR", phonenumbers.Leniency.VALID):
        named = re.search(rf"{PHONE_WORD}[^\d\n]{{0,30}}$", text[: number.start], re.IGNORECASE)
        national = str(number.number.national_number)
        written = named or PHONE_FORM.search(number.raw_string)
        long_enough = len(national) >= 10 or number.raw_string.startswith("+")
        if written and long_enough and not re.match(r"[3589]00", national) and not MEASURED.match(text[number.end :]):
            yield from _with_next(text, number.start, number.end)


def _with_next(text: str, start: int, end: int) -> Iterator[Finding]:
    """A telephone, and the local number that is given beside it."""
    yield Finding("phone", start, end)
    if more := NEXT_PHONE.match(text[end:]):
        yield Finding("phone", end + more.start(1), end + more.end(1))


def redact(text: str, findings: list[Finding]) -> str:
    """The text with each finding replaced by the placeholder of its kind, such as [CPF]."""
    for finding in sorted(findings, key=lambda f: f.start, reverse=True):
        text = text[: finding.start] + PLACEHOLDER[finding.kind] + text[finding.end :]
    return text
