"""Define fragments of patterns that several recognisers share.

All patterns of this package are verbose, so a space is written as [ ].
"""

import re
from collections.abc import Iterator

from bula.privacy.kinds import Finding

VERBOSE = re.VERBOSE
ANY_CASE = re.IGNORECASE | re.VERBOSE

STATES = "AC|AL|AP|AM|BA|CE|DF|ES|GO|MA|MT|MS|MG|PA|PB|PR|PE|PI|RJ|RN|RS|RO|RR|SC|SP|SE|TO"
# Up to three signs of punctuation and spaces may stand between the groups of digits.
GAP = r"[ .,_\-/]{0,3}"
NO_DIGIT_BEFORE = r"(?<!\d)(?<!\d[.,])"
# Many forms put the value on the line below its name.
NEXT_LINE = r"""
    (?: (?:[ ]n[º°.])? [ ]?: | (?<=[Dd]ata[ ]de[ ]nascimento) | (?<=DATA[ ]DE[ ]NASCIMENTO) )
    [ ]{0,3} \r?\n [ ]{0,8}
"""
# A word that names another number, so the number after it does not belong to an earlier name.
_OTHER_NAME = r"""
    (?:
        tel | fone | cel | zap | whats | rg\b | cpf\b | c\.p\.f | cnpj | cns\b | nis\b | pis\b
        | cnh\b | crm | coren | oab\b | cep\b | t[íi]tulo | passaporte | prontu[áa]rio | protocolo
        | carteir | nasc | lote | pedido | idade | parecer | caae | projeto | valor | r\$
        | resolu | portaria | lei\b | artigo | cid\b
    )
"""
# The text between the name of a number and the number: "nº", "do titular é o", a line break.
# A short number ("zona 12") may stand there too.
_LINK_SIGN = r"(?: [^\d\n;!?] | (?<!\d) \d{1,4} (?! [ .,_/-]{0,3} \d | \d ) )"
LINK = rf"""
    (?: (?! \b {_OTHER_NAME} ) {_LINK_SIGN} ){{0,60}}? (?: [ ]* :? [ ]* \r?\n [ ]{{0,8}} )?
"""
# A document has so many digits that a question ("seu CPF?") or two line breaks may stand there too.
WIDE_LINK = rf"""
    (?: (?! \b {_OTHER_NAME} ) (?: {_LINK_SIGN} | [;!?] ) ){{0,60}}?
    (?: [ ]* \r?\n [ ]* (?: (?! \b {_OTHER_NAME} ) [^\d\n] ){{0,30}}? ){{0,2}}
"""
# The text between a number and the name after it: "529... é o meu CPF".
BACK_LINK = r"""
    (?: [ ](?:é|eh|e|foi)[ ] | [ ]?\([ ]? )
    (?: (?: o | a | n[º°.]{1,2} | n[úu]mero | d[aeo] | meu | minha | seu | sua | dele
      | dela ) [ ] ){0,4}
"""
# A date or a telephone after the name of a document is no document.
NO_DATE = r"""
    (?!
        (?: 0?[1-9] | [12]\d | 3[01] ) [ ]? [/.-] [ ]? (?: 0?[1-9] | 1[0-2] ) [ ]? [/.-] [ ]?
        (?: \d{4} | \d{2} ) (?! [ ]?[.-]?\d )
        | \d{4} - \d{2} - \d{2} (?!\d)
        | 0800
        | \( | \d{2} \)
    )
"""


def named_number(name: str, fewest: int, most: int) -> re.Pattern[str]:
    """Return the pattern of a number beside its name, with any check digit.

    The number has `fewest` to `most` digits, with a gap after any of them, and is a group.
    """
    number = rf"{NO_DATE} \d (?:{GAP} \d){{{fewest - 1},{most - 1}}}"
    return re.compile(
        rf"""
        (?<!\w) {name} (?!\w) {WIDE_LINK} ({number}) (?!\d)
        | (?<![\d.,]) ({number}) (?!\d) {BACK_LINK} {name} (?!\w)
        """,
        ANY_CASE,
    )


def find_groups(kind: str, pattern: re.Pattern[str], text: str) -> Iterator[Finding]:
    """Yield every match of a pattern.

    A pattern has one group per form of the value, or none if the match is the value.
    """
    for match in pattern.finditer(text):
        group = match.lastindex or 0
        yield Finding(kind, match.start(group), match.end(group))
