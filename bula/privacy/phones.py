"""Find telephones by phonenumbers, and local numbers after a cue."""

import re
from collections.abc import Iterator

import phonenumbers
from phonenumbers import PhoneNumberMatch

from bula.privacy.fragments import ANY_CASE, VERBOSE
from bula.privacy.kinds import Finding, Recogniser

# The fewest digits of a local number.
LOCAL_DIGITS = 8
# Area code and local number.
NATIONAL_DIGITS = 10
# The longest word for a telephone and the text allowed after it. A search through all the text
# before each number would take quadratic time.
WORD_REACH = 45

_PHONE_WORD = r"""
(?:
    telefones? | \bfixo\b | tel\b\.? | fones?\b | celular(?:es)? | cel\b\.? | whats(?:app)? | wpp
    | wa\.me/ | zap | ligue | ligar | liga | chama[rm]? | contatos? | recado | ramal
    | meu[ ]n[úu]mero
)
"""
_LOCAL = r"(?:9[ .-]?)? \d{4} [ .-]? \d{4}"
LOCAL_PHONE = re.compile(
    rf"{_PHONE_WORD} ([^\d\n]{{0,30}}?) (?<!\d) ({_LOCAL}) (?![\d-])",
    ANY_CASE,
)
PHONE_WORD_BEFORE = re.compile(rf"{_PHONE_WORD} [^\d\n]{{0,30}} $", ANY_CASE)
# A second number after the first, as in "99999-8888 ou 98888-7777".
NEXT_PHONE = re.compile(rf"[ ]? (?: ou | e | / | , ) [ ]? ({_LOCAL}) (?![\d-])", ANY_CASE)
PHONE_FORM = re.compile(
    r"""
    # a country code, or an area code in brackets
    ^\+ | ^\(
    # a sign before the last four digits
    | \d{4} [ .-] \d{4} $
    """,
    VERBOSE,
)
# Area code, the 9 of a mobile number and eight digits.
MOBILE = re.compile(r"(?:55[ ]?)? 0? [1-9]{2} [ -]? 9 [ ]? \d{8}", VERBOSE)
# These words before a number say that it is no telephone.
OTHER_NAME_BEFORE = re.compile(
    r"""
    (?:
        \b
        (?:
            lote | protocolo | pedido | registro | código | nota | cpf | cnpj | cns | rg | sus
            | série | serial | matrícula | processo | guia | cartão | carteirinha | prontuário
            | identificador | etiqueta | rastreio | barras | ean | id | autorização | senha | boleto
            | inscrição | amostra | parecer
        )
        \b [^\d\n.,;!?]{0,25} (?: \bn\.[ ]? )?
        # a sign or a letter that touches the number
        | [\w/=-]
        | \d[.,]
    ) $
    """,
    ANY_CASE,
)
# Eight digits after one of these words are a count or a code, also after a word for telephone.
COUNTED = re.compile(
    r"""
    \b
    (?:
        plaquetas | leucócitos | hemácias | células | contagem | carga[ ]viral | lote | protocolo
        | pedido | registro | código | nota
    )
    \b
    """,
    ANY_CASE,
)
# Numbers of services, which are valid in all of Brazil.
SERVICE = re.compile(r"3003 | 400\d", VERBOSE)
YEARS = re.compile(r"(?:19|20)\d{2} [ .-] (?:19|20)\d{2} $", VERBOSE)
UNIT_AFTER = re.compile(
    r"""
    [ ]?
    (?:
        c[óo]pias | UI\b | U/ | m[gLl]\b | mc?g\b | /[ ]?[a-zµ] | % | mm | células | cel/ | unidades
        | k?cal\b | calorias | passos | reais
    )
    """,
    VERBOSE,
)


def _local_phones(text: str) -> Iterator[Finding]:
    """Yield the local numbers after a word for telephone."""
    for match in LOCAL_PHONE.finditer(text):
        gap, number = match.groups()
        is_bare = re.fullmatch(r"\d{8}", number)
        if is_bare and COUNTED.search(gap):
            continue
        if SERVICE.match(number) or YEARS.match(number):
            continue
        if not UNIT_AFTER.match(text, match.end()):
            yield from _with_next_phone(text, match.start(2), match.end(2))


def _national_phones(text: str) -> Iterator[Finding]:
    """Yield the telephones that phonenumbers accepts."""
    for match in phonenumbers.PhoneNumberMatcher(text, "BR", phonenumbers.Leniency.VALID):
        if UNIT_AFTER.match(text, match.end):
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
    if PHONE_WORD_BEFORE.search(before) or PHONE_FORM.search(match.raw_string):
        return True
    if not MOBILE.fullmatch(match.raw_string):
        return False
    return not OTHER_NAME_BEFORE.search(before)


def _with_next_phone(text: str, start: int, end: int) -> Iterator[Finding]:
    """Yield a telephone, and a local number right after it."""
    yield Finding("phone", start, end)
    following = NEXT_PHONE.match(text, end)
    if following:
        yield Finding("phone", following.start(1), following.end(1))


def _find(text: str) -> Iterator[Finding]:
    """Yield the telephones of a text."""
    yield from _local_phones(text)
    yield from _national_phones(text)


RECOGNISER = Recogniser(_find, digits=LOCAL_DIGITS)
