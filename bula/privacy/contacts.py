"""Find e-mail addresses, profiles of social media (@name) and PIX keys."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import ANY_CASE, VERBOSE, find_groups
from bula.privacy.kinds import Finding, Recogniser

_MAILBOX = r"(?<![\w.+%-]) [\w.+%-]+"
EMAIL = re.compile(rf"{_MAILBOX} @ [\w-]+ (?:\.[\w-]+)* \.[A-Za-z]{{2,}}", VERBOSE)
SPACED_EMAIL = re.compile(
    rf"""
    {_MAILBOX}
    (?:
        # a space after the sign: a common ending
        [ ]?@[ ] (?:[\w-]+\.){{1,3}} (?:com|net|org|br)\b
        # a space only before the sign: a common provider, because "@nome" is a profile
        | [ ]@ (?:gmail|hotmail|outlook|yahoo|icloud|uol|bol|terra) \.com (?:\.br)?\b
    )
    """,
    ANY_CASE,
)
# A rate such as "97% @2L" or "78 @repouso" is no profile.
HANDLE = re.compile(
    r"""
    (?<![\w@.%/+-]) (?<!\d[ ]) (?<!%[ ])
    @ (?= [\w.]* [A-Za-z] [\w.]* [A-Za-z] ) [A-Za-z0-9_] [\w.]{1,28} [A-Za-z0-9_]
    (?! [\w@] )
    """,
    VERBOSE,
)
_UUID = r"[0-9a-f]{8} [ ]?-[ ]? (?:[0-9a-f]{4} [ ]?-[ ]?){3} [0-9a-f]{12} | [0-9a-f]{32}"
PIX = re.compile(
    rf"""
    \b (?: pix | chave ) \b .{{0,80}}? (?<![0-9a-f]) ({_UUID}) (?![0-9a-f])
    | \b chave [ ] aleat[óo]ria \b [^\n]{{0,40}}? (?<![0-9a-f]) ({_UUID}) (?![0-9a-f])
    | (?<![0-9a-f]) ({_UUID}) (?![0-9a-f]) [^\n.;!?]{{0,40}} \b pix \b
    """,
    ANY_CASE | re.DOTALL,
)


def _emails(text: str) -> Iterator[Finding]:
    """Yield the e-mail addresses."""
    for pattern in (EMAIL, SPACED_EMAIL):
        yield from find_groups("email", pattern, text)


def _handles(text: str) -> Iterator[Finding]:
    """Yield the profiles of social media."""
    yield from find_groups("handle", HANDLE, text)


def _pix_keys(text: str) -> Iterator[Finding]:
    """Yield random PIX keys; the other keys are telephones, documents and e-mail addresses."""
    yield from find_groups("pix", PIX, text)


EMAILS = Recogniser(_emails, sign="@")
HANDLES = Recogniser(_handles, sign="@")
PIX_KEYS = Recogniser(_pix_keys, digits=4)
