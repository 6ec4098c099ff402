"""Repair mojibake, and detect it and lost accents.

Mojibake is UTF-8 text that was decoded as Latin-1 or Windows-1252. Accents are lost if a program
wrote "?" in place of each letter that its encoding does not have; no repair can know the letter.
"""

import re

import ftfy

# Characters typical of mojibake; ftfy is slow, so it runs only where one of them occurs.
SUSPECT = re.compile("[ÃÂâ€œð\u0080-\u009f\ufffd]")
# ftfy takes the end of a word in capitals before a closing sign ("AMANHÃ”") for mojibake.
CAPITAL_A_TILDE = re.compile("(?<=[A-ZÀ-Ý])Ã(?=[”’»®™…–—\"'\u00a0])")
# The planes of private use contain more characters than a text can have.
PRIVATE_USE = range(0xF0000, 0x10FFFE)
# No other "?" can stand for an accent. Most texts have none, and the patterns below are slow.
LETTER_AFTER = re.compile(r"\?-?[^\W\d_]|[a-zA-Z]\?+,?\s+[a-zà-ÿ]")
# An address may have a "?" between letters.
ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+\.\w{2,4}/\S*", re.IGNORECASE)
# A "?" in a word, by which the word cannot be the end of a question and the start of a sentence.
LOST_ACCENT = re.compile(
    r"""
    # n?o, m?dico, r?pido: no word consists of the letter before it. A capital letter begins the
    # next sentence: "hepatite C?Tem cura".
    (?<![^\W\d_]) [b-df-np-z] \?+ (?! (?-i: [A-ZÀ-Ý][a-zà-ÿ] ) ) [^\W\d_]
    # conv?m, ap?s, vir?s, parab?ns: no word consists of the letters after it.
    | [^\W\d_]{2} \?+ (?: [b-df-np-z] | ns ) (?![^\W\d_])
    # emerg?ncia, necess?rio, diagn?stico, poss?vel, rem?dio, l?quido, c?psula
    | [^\W\d_] \?+ (?:
        nci[ao] | ri[ao] | di[ao] | stic[ao] | tic[ao] | dic[ao] | nic[ao] | ric[ao] | gic[ao]
        | lic[ao] | fic[ao] | mic[ao] | vel | veis | quid[ao] | pid[ao] | sic[ao] | psula | lise
        | bit[ao] | lcool | ngue | cil | ceis | nea | neo
      ) s? (?![^\W\d_])
    # crian?a, cabe?a, for?a, bra?o, servi?o, pesco?o, sa?de
    | (?: [ae]n | cabe | for | bra | servi | sco ) \?+ [ao] s? (?![^\W\d_])
    | (?<![^\W\d_]) sa \?+ de (?![^\W\d_])
    # ?gua, ?lcool, ?ltimo
    | (?<![^\W_]) \?+ (?: gua | lcool | ltim[ao] ) s? (?![^\W\d_])
    # interromp?-la, tom?-lo
    | [^\W\d_] \?+ - (?: l[ao]s? | se | me ) (?![^\W\d_])
    # h? motivo, j? come, est? com, voc? tem: the word goes on to the next one.
    | (?<![^\W\d_]) (?: h | j | l | ol | est | voc | at | beb | a?manh | irm )
        \?+ ,? \s+ [a-zà-ÿ]
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A word before a "?" and "o", "os" or "es": "press?o", or "tomar?o remédio" without a space.
BEFORE_O = re.compile(
    r"(?P<word>[^\W\d_]+)(?P<marks>\?+)(?P<end>os?|es)(?![^\W\d_])(?P<que>\s+que\b)?",
    re.IGNORECASE,
)
# Beginnings that are no word, so that "ão" must follow: press, infecç, op, pulm, colch, les, raz.
NO_WORD = re.compile(
    r"""
    (?: [bcdfgjkpqtvxç] | [cln]h | [b-df-hj-np-tv-z] [lmrz] | [b-df-hj-mp-tv-z] s )$
    # lesão, limão, camarão: these are no words, but "mais" and "tomar" are.
    | ^(?: alem | camar | tubar | mam | lim | pim | mel | raz | les
        | (?: re | su | pre )?vis )$
    | (?: inva | eva | oca | ero | deci | preci | inci | pri | fu | clu | ili | olu ) s$
    # tensão, hipertensão, suspensão, dimensão, expansão, but not "homens" and "viagens"
    | (?: ^ | [oerx] ) tens$ | (?: sus | ^ )pens$ | imens$ | pans$ | reens$ | cens$
    """,
    re.VERBOSE | re.IGNORECASE,
)
# porção, inserção, menção: two letters are lost after these. "tomar" is a word.
NO_WORD_BEFORE_TWO = re.compile(r"(?:n|(?:abso|asse|dese|disto|conto|inse|po|pô)r)$", re.IGNORECASE)
# Words that end in such letters all the same: abbreviations, and names of remedies.
FOREIGN = re.compile(
    r"(?:hiv|hpv|avc|avcs|covid|ozempic|prozac|zyrtec|sob|vick|engov|checkup|whatsapp|\w*flex"
    r"|\w*grip)",
    re.IGNORECASE,
)
# A single letter that of a vitamin, a virus or a group ends a question: "vitamina D?posso".
LETTER_NAME = re.compile(
    r"""
    (?: vitaminas? | hepatites? | \b (?: tipo | grupo | complexo | letra | item ) )
        \s+ [a-z] \?
    | (?-i: \b [B-LQ-Z] \? [ae] \b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A "?" between two words of small letters may be a question without a space after it.
BETWEEN_LETTERS = re.compile(r"[a-zà-ÿ]\?+[a-zà-ÿ]")
ACCENT = re.compile("[À-ÖØ-öø-ÿ]")
# So many of them in a text without any accent are no accident.
MOST_BETWEEN = 3


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


def has_lost_accents(text: str) -> bool:
    """Return whether "?" stands in place of accented letters of a text."""
    if not LETTER_AFTER.search(text):
        return False
    plain = LETTER_NAME.sub(" ", ADDRESS.sub(" ", text))
    has_accents = bool(ACCENT.search(plain))
    if LOST_ACCENT.search(plain):
        return True
    if any(_lacks_ao(match, has_accents) for match in BEFORE_O.finditer(plain)):
        return True
    between = len(BETWEEN_LETTERS.findall(plain))
    return between > MOST_BETWEEN and not has_accents


def _lacks_ao(match: re.Match[str], has_accents: bool) -> bool:
    """Return whether "?" stands for the letters of "ão", "ção" or "ões".

    Otherwise it ends a question, and the article "o" follows it without a space.
    """
    word = match["word"]
    if match["end"].lower() == "es":
        return True
    is_acronym = len(word) > 1 and word.isupper() and match["end"].islower()
    if is_acronym or FOREIGN.fullmatch(word):
        return False
    if NO_WORD.search(word):
        return True
    if len(match["marks"]) == 1:
        return False
    if NO_WORD_BEFORE_TWO.search(word):
        return True
    # "medica??o" or "barriga??o médico": what loses two letters loses all accents of a text.
    return word[-1].lower() in "aeiou" and not has_accents and not match["que"]
