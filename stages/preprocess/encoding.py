"""Repair and detect mojibake.

Mojibake is UTF-8 text that was decoded as Latin-1 or Windows-1252.
"""

import re

import ftfy

# Characters typical of mojibake; ftfy is slow, so it runs only where one of them occurs.
SUSPECT = re.compile("[ÃÂâ€œð\u0080-\u009f\ufffd]")
# ftfy takes the end of a word in capitals before a closing sign ("AMANHÃ”") for mojibake.
CAPITAL_A_TILDE = re.compile("(?<=[A-ZÀ-Ý])Ã(?=[”’»®™…–—\"'\u00a0])")
# The planes of private use contain more characters than a text can have.
PRIVATE_USE = range(0xF0000, 0x10FFFE)


def repair_mojibake(text: str) -> str:
    """Return the text without mojibake.

    Words in capitals that end in Ã, such as "AMANHÃ", are unchanged.
    """
    if not SUSPECT.search(CAPITAL_A_TILDE.sub("A", text)):
        return text
    # ftfy sees a character that the text does not contain in place of each correct letter.
    stand_in = next(sign for sign in map(chr, PRIVATE_USE) if sign not in text)
    repaired = ftfy.fix_encoding(CAPITAL_A_TILDE.sub(stand_in, text))
    return str(repaired).replace(stand_in, "Ã")


def is_mojibake(text: str) -> bool:
    """Return whether a text still looks damaged after the repair."""
    if "\ufffd" in text:
        return True
    plain = CAPITAL_A_TILDE.sub("A", text)
    return bool(SUSPECT.search(plain)) and ftfy.badness.is_bad(plain)
