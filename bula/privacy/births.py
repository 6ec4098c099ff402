"""Find complete dates of birth beside a word for birth."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import ANY_CASE, NEXT_LINE, find_groups
from bula.privacy.given_names import GIVEN_NAMES, SURNAMES, fold
from bula.privacy.kinds import Finding, Recogniser

_MONTHS = (
    "janeiro|fevereiro|mar[çc]o|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DAY_WORD = r"""
(?:
    primeiro | um | dois | tr[êe]s | quatro | cinco | seis | sete | oito | nove | dez | onze | doze
    | treze | (?:qua|ca)torze | quinze | dezesseis | dezessete | dezoito | dezenove
    | (?: vinte | trinta ) (?: [ ]e[ ] \w{2,6} )?
)
"""
_YEAR_WORDS = r"""
(?:
    mil[ ,]+ (?:e[ ])? novecentos (?:[ ]e[ ]\w+){1,2} | dois[ ]mil (?:[ ]e[ ]\w+){0,2}
    | (?: trinta | quarenta | cinquenta | sessenta | setenta | oitenta | noventa ) (?:[ ]e[ ]\w+)?
)
"""
_DATE = rf"""
(?:
    # 12/03/1985
    (?<!\d) {_DAY} [º°]? [ ]?[/.-][ ]? (?:0?[1-9]|1[0-2])
    (?: [ ]?[/.-][ ]? (?:\d{{4}}|\d{{2}}) | (?:[ ]de)? [ ] (?:19|20)\d{{2}} ) (?![\d/])
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
    (?: (?: , | [ ]d[eo] (?:[ ]ano)? )? [ ] (?:de[ ])? \d{{4}} | [ ]de[ ]\d{{2}} ) (?!\d)
    # doze de março de 1985
    | (?: \b {_DAY_WORD} | (?<!\d) {_DAY} )
      (?: [ ]de[ ] (?:{_MONTHS}) | [ ]d[eo][ ] (?:m[êe]s[ ])? {_DAY_WORD} )
      (?:[ ]d[eo](?:[ ]ano)?)? [ ]
      (?:de[ ])? (?: \d{{4}} (?!\d) | {_YEAR_WORDS} )
    # dia 12, mês 3, ano 1985
    | (?<!\d) {_DAY} [ ,]{{1,2}} (?:d[eo][ ])? m[êe]s[ ] (?:0?[1-9]|1[0-2]) [ ,]{{1,2}}
      (?:d[eo][ ])? ano[ ] (?:de[ ])? (?:\d{{4}}|\d{{2}}) (?!\d)
    # 12 do 3 de 85
    | (?<!\d) {_DAY} [ ]do[ ] (?:0?[1-9]|1[0-2]) [ ]d[eo][ ] (?:\d{{4}}|\d{{2}}) (?!\d)
)
"""
# An expected date of birth belongs to a pregnancy.
_NOT_EXPECTED = r"""
(?<!previsão[ ]de[ ]) (?<!previsão[ ]do[ ])
(?<!provável[ ]de[ ]) (?<!provável[ ]do[ ])
(?<!prevista[ ]do[ ]) (?<!prevista[ ]para[ ]o[ ])
"""
_BORN = rf"""
(?=[acdnv]) {_NOT_EXPECTED} (?<!recém-) (?<!recém[ ])
(?:
    nascid[oa]s? | nasci | nasceu | nasceram | nascimento | data[ ]de[ ]nasc
    | dt\.?[ ]?nasc | anivers[áa]rio | (?<![^\W_])nasc(?![^\W\d_]) | nasc\.
    # other abbreviations and spellings, but no future birth
    | (?<![^\W_]) nasc (?!er|en|itu) [a-zç]{{1,8}}\.? | dtnasc | dt\.?n\b
    | na(?:s|sc|c)imento | nacid[oa]s? | naceu | \bd[.,/]?[ ]?n\.?(?=[\d :.=(\[])
    | veio[ ]ao[ ]mundo | chegou[ ]ao[ ]mundo
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
    {_BORN} (?![^\W\d_])
    (?: (?: (?!{_OTHER_EVENT}) [^\d.;!?\n] ){{0,50}}? | (?:[ ]em)? (?:{NEXT_LINE})
      | [ ]{{0,3}} [:.]? [ ]{{0,3}} \r?\n [ ]{{0,8}} )
    ({_DATE})
    # six digits right after the abbreviation
    | \b (?: d\.?n\.? | d/n | nasc\.? | dt\.?[ ]?nasc\.? ) [ :]{{0,3}}
      ((?:0[1-9]|[12]\d|3[01]) (?:0[1-9]|1[0-2]) \d{{2}}) (?![\d./-] | [ ]?m[gl])
    # the writer, or a relative, is of a day
    | \b (?: sou | (?: filh[oa] | m[ãa]e | pai | beb[êe] | av[óôo] | espos[oa] | marido )
      [ ](?:é|eh|e) ) [ ]d[eo][ ] (?:dia[ ])? ({_DATE})
    # abbreviations with a full stop
    | \bd\.n\. [ :(\[]{{0,3}} ({_DATE})
    | (?<!recém-) (?<!recém[ ]) nasc\. (?: (?!{_OTHER_EVENT}) [^\d\n] ){{0,12}} ({_DATE})
    """,
    ANY_CASE,
)
AFTER_DATE = re.compile(
    rf"""
    ({_DATE}) [^\d.;!?\n]{{0,25}}? (?: data[ ]de[ ]nascimento | nascimento\b )
    | ({_DATE}) [ ,(]{{1,3}}
      (?: (?: é | foi | quando | o[ ]dia | dia | em[ ]que | data ) [ ] ){{1,4}}
      (?: eu[ ] | el[ea][ ] | (?:meu|minha)[ ]\w+[ ] )? (?: nasci | nasceu | naceu ) \b
    # an abbreviation in brackets, as in "(12/03/1985, DN)"
    | ({_DATE}) [ ,(\[/-]{{1,4}} (?: d\.?n\b | nasc\b | data[ ]de[ ]nasc )
    """,
    ANY_CASE,
)


# A date in brackets after a name, as in "Ana Souza (12/03/1985)". Without brackets it may be the
# date of a visit, so the year must be long ago.
BRACKETED = re.compile(
    rf"""
    ([^\W\d_]+)
    (?:
        [ ]?,?[ ]? [(\[] [ ]? \*? ({_DATE}) [ ]? [)\]]
        | (?: [ ]-[ ] | ,[ ] | [ ] ) (\d{{1,2}} [/.-] \d{{1,2}} [/.-] 19\d{{2}}) (?!\d)
    )
    """,
    ANY_CASE,
)


# A text in small letters without one of these strings has no date of birth.
SIGNS = (
    *("nasc", "nasim", "nacim", "nacid", "naceu", "dn", "d.n", "d. n", "d n", "d/n", "d,n", "dtn"),
    *("dt.n", "anivers", "ao mundo", "sou d"),
)
RELATIVE = re.compile(
    r"(?:filh[oa]s?|m[ãa]e|pai|av[óôo]|irm[ãa]o?|net[oa]|espos[oa]|marido|beb[êe]"
    r"|sobrinh[oa]|tia)$",
    ANY_CASE,
)
BRACKET_GROUP = 2
LONG_AGO = ("/19", ".19", "-19")
# Every date has two digits in a row, or a year in words.
YEAR = re.compile(r"\d\d|\bmil\b|\btrinta\b|enta\b", re.IGNORECASE)
OF_DAY = re.compile(r"[aeoi] (?:é|eh|e) d[eo] (?:dia )?\d")
BRACKET = re.compile(r"[(\[][ *]{0,2}\d")


def _find(text: str) -> Iterator[Finding]:
    """Yield the dates of birth."""
    small = text.lower()
    has_sign = any(sign in small for sign in (*SIGNS, *LONG_AGO))
    if not has_sign and not BRACKET.search(text) and not OF_DAY.search(small):
        return
    if not YEAR.search(small):
        return
    for pattern in (BEFORE_DATE, AFTER_DATE):
        yield from find_groups("birth_date", pattern, text)
    for match in BRACKETED.finditer(text):
        group = match.lastindex or 0
        is_relative = group == BRACKET_GROUP and RELATIVE.match(match[1])
        if is_relative or fold(match[1]) in GIVEN_NAMES | SURNAMES:
            yield Finding("birth_date", match.start(group), match.end(group))


# A date can be written in words, so it needs no digit.
RECOGNISER = Recogniser(_find)
