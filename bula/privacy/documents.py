"""Find numbered documents: CPF, CNPJ, CNS, PIS, CNH, voter's title and passport.

Without its name, a number counts only if validate-docbr accepts the check digits, so a lot or a
protocol is not taken for a document. Beside its name it counts with any digit and with a digit too
few or too many, because people mistype.
"""

import re
from collections.abc import Iterator

from validate_docbr import CNPJ, CNS, CPF, PIS, DocumentBase

from bula.privacy.fragments import (
    ANY_CASE,
    BACK_LINK,
    GAP,
    NO_DIGIT_BEFORE,
    VERBOSE,
    WIDE_LINK,
    find_groups,
    named_number,
)
from bula.privacy.given_names import ascii_words, word_set
from bula.privacy.kinds import Finding, Recogniser

_CPF = re.compile(
    rf"{NO_DIGIT_BEFORE} (\d{{3}} {GAP} \d{{3}} {GAP} \d{{3}} {GAP} \d{{2}}) (?!\d)",
    VERBOSE,
)
_CNPJ = re.compile(
    rf"""
    {NO_DIGIT_BEFORE} (?<![A-Z])
    (
        [\dA-Z]{{2}} {GAP} [\dA-Z]{{3}} {GAP} [\dA-Z]{{3}} {GAP} [\dA-Z]{{4}} {GAP} \d{{2}}
    )
    (?!\d)
    """,
    VERBOSE,
)
_CNS = re.compile(
    rf"""
    {NO_DIGIT_BEFORE}
    ([1-25-9]\d{{2}} {GAP} \d{{4}} {GAP} \d{{4}} {GAP} \d{{4}})
    (?!\d)
    """,
    VERBOSE,
)
# Eleven digits alone are more often a telephone, so the PIS needs its own groups.
_PIS = re.compile(rf"{NO_DIGIT_BEFORE} (\d{{3}} \. \d{{5}} \. \d{{2}} - \d) (?!\d)", VERBOSE)
CHECKED: tuple[tuple[str, DocumentBase, re.Pattern[str]], ...] = (
    ("cpf", CPF(), _CPF),
    ("cnpj", CNPJ(), _CNPJ),
    ("cns", CNS(), _CNS),
    ("pis", PIS(), _PIS),
)

_CPF_NAME = r"(?: CPFs? | C[. ]P[. ]F\.? | CPF/MF | CIC | cadastro[ ]de[ ]pessoas?[ ]f[íi]sicas? )"
_CNPJ_NAME = r"(?: CNPJs? | C[. ]N[. ]P[. ]J\.? | CNPJ/MF | CGC )"
_CNS_NAME = r"""
    (?:
        CNS | cad[ -]?sus | C\.N\.S\.? | cart[ãa]o[ ]de[ ]sa[úu]de
          | (?:cart[ãa]o|carteir(?:a|inha)|cart[ãa]ozinho|n[úu]mero|n[º°])[ ](?:do[ ])?SUS
        | cart[ãa]o[ ]nacional[ ]de[ ]sa[úu]de | SUS
    )
"""
_PIS_NAME = r"(?: NIS | PIS | PASEP | NIT | [NP]\.I\.[ST]\.? | PIS[ /-]{1,3}(?:PASEP|NIS) )"
_CNH_NAME = r"""
    (?:
        CNH | C\.N\.H\.?
        | (?:carta[ ]de[ ]|carteira[ ](?:nacional[ ])?de[ ])?(?:habilita[çc][ãa]o|motorista)
    )
"""
_VOTER_NAME = r"""
    (?: e-)?
    (?:
        inscri[çc][ãa]o[ ]eleitoral | eleitora? (?= [ ]? (?: n[º°.\d] | n[ ] | n[úu]m | : ) )
        | t\.?[ ]? (?: d[eo][ ] )? eleit(?:ora?|oral|\.)
        | t[íi]t(?:ulo|\.)? (?: [ ] (?: (?:d[eo][ ])? eleitora? | eleitoral | eleit\. ) )?
    )
"""
NAMED = (
    ("cpf", named_number(_CPF_NAME, 9, 14)),
    # The form 000.000.000-00 before the word.
    ("cpf", re.compile(r"(\d{3}\.\d{3}\.\d{3}-\d{2}) (?!\d) [^\d\n.;!?]{0,25} \bCPF\b", ANY_CASE)),
    ("cnpj", named_number(_CNPJ_NAME, 12, 16)),
    (
        "cnpj",
        re.compile(
            rf"""
            \b CNPJ \b {WIDE_LINK}
            ([\dA-Z]{{2}} \. [\dA-Z]{{3}} \. [\dA-Z]{{3}} / [\dA-Z]{{4}} - \d{{1,2}}) (?!\d)
            """,
            ANY_CASE,
        ),
    ),
    ("cns", named_number(_CNS_NAME, 12, 18)),
    ("pis", named_number(_PIS_NAME, 9, 13)),
    ("cnh", named_number(_CNH_NAME, 9, 13)),
    ("voter", named_number(_VOTER_NAME, 8, 15)),
    (
        "passport",
        re.compile(
            rf"""
            \b
            (?:
                pass? (?:ap\w* | port\w*) \b | psp\b
                | pass\. (?= [ ]? (?: n[º°.]{{0,2}} [ ]? )? [A-Z]{{1,3}} [ ]? \d )
            )
            {WIDE_LINK}
            # two letters and six digits in Brazil, and other forms elsewhere
            \b
            (
                [A-Z]{{1,3}} [ .-]? \d{{2,3}} [ .]? \d{{3}} (?:\d{{1,3}})? | \d{{6,9}}
                | [A-Z]{{1,3}} [ .-]? \d{{4,5}}
                | (?= [A-Z\d]{{0,4}}\d ) (?= (?:[A-Z]{{0,3}}\d){{4}} ) [A-Z\d]{{7,9}}
            )
            \b
            # the number first
            | \b ([A-Z]{{1,3}} [ .-]? \d{{6}}) \b {BACK_LINK} passaporte \b
            """,
            ANY_CASE,
        ),
    ),
)


# A text without one of these words names no document. The last ones are of C.P.F. and C.N.S.
NAME_WORDS = word_set(
    """
    cad cadsus cartao cnh cnpj cnpjs cns cpf cpfs eleitor eleitora eleitoral f h habilitacao
    carta cgc cic eleit i inscricao j mf motorista nis nit pasaporte pasep pass passap
    passaport passaporte passaportes passport psp pessoa pessoas pis s sus tit titulo
    """
)


def _next_number(text: str, finding: Finding) -> Iterator[Finding]:
    """Yield a second number in the form of the first.

    People write "o CNS é A e B", and the name stands beside the first only.
    """
    form = re.sub(r"\d", r"\\d", re.escape(text[finding.start : finding.end]))
    following = re.compile(rf" ?(?:,|;|/|\be\b|\bou\b)[^\d\n.;!?]{{0,25}}(?<!\d)({form})(?!\d)")
    match = following.match(text, finding.end)
    if match:
        yield Finding(finding.kind, match.start(1), match.end(1))


def _find(text: str) -> Iterator[Finding]:
    """Yield the documents of a text."""
    for kind, document, pattern in CHECKED:
        for match in pattern.finditer(text):
            number = re.sub(r"[^\dA-Z]", "", match[1])
            if document.validate(number):
                finding = Finding(kind, match.start(1), match.end(1))
                yield finding
                yield from _next_number(text, finding)
    if NAME_WORDS.isdisjoint(ascii_words(text)):
        return
    for kind, pattern in NAMED:
        for finding in find_groups(kind, pattern, text):
            yield finding
            yield from _next_number(text, finding)


# The shortest number is that of a passport.
RECOGNISER = Recogniser(_find, digits=5)
