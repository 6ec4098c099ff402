"""Find complete dates of birth beside a word for birth."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import ANY_CASE, NEXT_LINE, find_groups
from bula.privacy.given_names import GIVEN_NAMES, SURNAMES, fold
from bula.privacy.kinds import Finding, Recogniser

_MONTHS = "janeiro|fevereiro|mar[çc]o|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DAY_WORD = r"""
(?:
    primeiro | um | dois | tr[êe]s | quatro | cinco | seis | sete | oito | nove | dez | onze | doze
    | treze | (?:qua|ca)torze | quinze | dezesseis | dezessete | dezoito | dezenove
    | (?: vinte | trinta ) (?: [ ]e[ ] \w{2,6} )?
)
"""
_DATE = rf"""
(?:
    # 12/03/1985
    (?<!\d) {_DAY} [ ]?[/.-][ ]? (?:0?[1-9]|1[0-2]) [ ]?[/.-][ ]? (?:\d{{4}}|\d{{2}}) (?![\d/])
    # 12 03 1985 and 12031985
    | (?<![\d.,]) (?:0[1-9]|[12]\d|3[01]) [ ]? (?:0[1-9]|1[0-2]) [ ]? (?:19|20)\d{{2}} (?!\d)
    # 1985-03-12
    | (?<!\d) (?:19|20)\d{{2}} [-/] (?:0[1-9]|1[0-2]) [-/] (?:0[1-9]|[12]\d|3[01]) (?!\d)
    # 12 mar 1985
    | (?<!\d) {_DAY} (?: [ ]de[ ] | [ /.-] )
    (?:jan|fev|mar|abr|mai|jun|jul|ago|set|out|nov|dez) \.?
    (?: [ ]de[ ] | [ /.-] ) (?:\d{{4}}|\d{{2}}) (?!\d)
    # 12 de março de 1985
    | (?<!\d) (?:[1-9]|0[1-9]|[12]\d|3[01]|1º) [º°]? (?: [ ]do?e? )? [ ] (?:{_MONTHS})
    (?: (?: , | [ ]d[eo] )? [ ] (?:de[ ])? \d{{4}} | [ ]de[ ]\d{{2}} ) (?!\d)
    # doze de março de 1985
    | \b {_DAY_WORD} [ ]de[ ] (?:{_MONTHS}) [ ]d[eo][ ] \d{{4}} (?!\d)
)
"""
# An expected date of birth belongs to a pregnancy.
_NOT_EXPECTED = r"""
(?<!previsão[ ]de[ ]) (?<!previsão[ ]do[ ])
(?<!provável[ ]de[ ]) (?<!provável[ ]do[ ])
(?<!prevista[ ]do[ ]) (?<!prevista[ ]para[ ]o[ ])
"""
_BORN = rf"""
(?=[adn]) {_NOT_EXPECTED} (?<!recém-) (?<!recém[ ])
(?:
    nascid[oa]s? | nasci | nasceu | nasceram | nascimento | data[ ]de[ ]nasc
    | dt\.?[ ]?nasc | anivers[áa]rio | (?<![^\W_])nasc\b | nasc\. | \bd\.?[ ]?n\.?(?=[ :.=(\[])
)
"""
# These words say that a date belongs to another event. An "e" does not if it is part of a label
# ("nascimento e sexo:"), of "nascida e criada" or of a name ("Hospital e Maternidade").
_OTHER_EVENT = r"""
(?:
    \be[ ] (?! (?:foi[ ])? (?:criad|registrad) | (?-i:[A-ZÀ-Ý]) | [^:\d\n]{0,30}: )
    | \baté\b | (?-i:\balta\b) | \bvacina | \btom(?:ou|ei)\b | \breceb | \bprevis | \bprováve
)
"""
BEFORE_DATE = re.compile(
    rf"""
    {_BORN} (?!\w)
    (?: (?: (?!{_OTHER_EVENT}) [^\d.;!?\n] ){{0,50}}? | (?:[ ]em)? (?:{NEXT_LINE}) )
    ({_DATE})
    # abbreviations with a full stop
    | \bd\.n\. [ :(\[]{{0,3}} ({_DATE})
    | (?<!recém-) (?<!recém[ ]) nasc\. (?: (?!{_OTHER_EVENT}) [^\d\n] ){{0,12}} ({_DATE})
    """,
    ANY_CASE,
)
AFTER_DATE = re.compile(
    rf"""
    ({_DATE}) [^\d.;!?\n]{{0,25}}? (?: data[ ]de[ ]nascimento | nascimento\b )
    # an abbreviation in brackets, as in "(12/03/1985, DN)"
    | ({_DATE}) [ ,(\[/-]{{1,4}} (?: d\.?n\b | nasc\b | data[ ]de[ ]nasc )
    """,
    ANY_CASE,
)


# A date in brackets after a name, as in "Ana Souza (12/03/1985)".
BRACKETED = re.compile(rf"([^\W\d_]+) [ ]?,?[ ]? [(\[] [ ]? \*? ({_DATE}) [ ]? [)\]]", ANY_CASE)


def _find(text: str) -> Iterator[Finding]:
    """Yield the dates of birth."""
    for pattern in (BEFORE_DATE, AFTER_DATE):
        yield from find_groups("birth_date", pattern, text)
    for match in BRACKETED.finditer(text):
        if fold(match[1]) in GIVEN_NAMES | SURNAMES:
            yield Finding("birth_date", match.start(2), match.end(2))


# "8 de março de 85" has three digits.
RECOGNISER = Recogniser(_find, digits=3)
