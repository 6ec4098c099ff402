"""Check the stated encoding of a text file, and propose another one.

charset-normalizer measures how disordered a text looks under an encoding. A better encoding is
proposed in messages, and never used without the user's word.
"""

import codecs
import re
from pathlib import Path
from typing import get_args

from bula.param_types import Encoding
from stages.ingest.opening import WIDE_ENCODINGS, unpacked_head
from stages.ingest.reading import ReadOptions

# Bytes at the start of a file that are examined, and the bytes of lines with accents among them.
HEAD_BYTES = 4_000_000
SAMPLE_BYTES = 100_000
# Fewer letters with accents than these prove nothing.
LEAST_CHARACTERS = 3
# A stated encoding is wrong if more than this share of the special characters are out of place...
MOST_WRONG = 0.3
# ...and if at most this share are out of place under the proposed encoding.
MOST_WRONG_PROPOSED = 0.1
# Half of the bytes of Portuguese in UTF-16 are zero; fewer zeros are damage to single rows.
MOST_ZERO_SHARE = 0.25
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Encodings with one byte per character; of equally good ones, the first is proposed.
NARROW_ENCODINGS = [name for name in get_args(Encoding) if name not in ("utf-8", *WIDE_ENCODINGS)]
SPECIAL = re.compile(r"[^\x00-\x7f\s]")
LETTERS = "áàâãéèêíóôõúüçñÁÀÂÃÉÈÊÍÓÔÕÚÜÇÑªº"
OUT_OF_PLACE = re.compile(
    rf"""
    [\x80-\x9f\ufffd]                           # control characters of Latin-1
    | (?<=[a-z])[ÁÀÂÃÉÈÊÍÓÔÕÚÜÇÑ]               # a capital after a small letter
    | (?<=[A-Z])[áàâãéèêíóôõúüçñ](?=[A-Z])      # a small letter between capitals
    | [^\W\d_A-Za-z{LETTERS}]                   # a letter that Portuguese does not have
    | (?<=[^\W\d_])[^\w\s'’\x00-\x7f\-‐‑–—\u00ad](?=[^\W\d_])   # a sign within a word
    | [\u2500-\u259f]                           # lines and blocks of DOS
    """,
    re.VERBOSE,
)


def wrong_share(text: str) -> float:
    """Return the share of the characters beyond ASCII that Portuguese does not have there."""
    special = len(SPECIAL.findall(text))
    return len(OUT_OF_PLACE.findall(text)) / special if special else 0.0


def text_sample(head: bytes) -> bytes:
    """Return the lines of a file's head that have bytes beyond ASCII.

    Lines with zero bytes are damaged and left out.
    """
    lines = []
    size = 0
    for line in head.split(b"\n"):
        if not line.isascii() and b"\0" not in line:
            lines.append(line)
            size += len(line)
        if size > SAMPLE_BYTES:
            break
    return b"\n".join(lines)[:SAMPLE_BYTES]


def propose_encoding(sample: bytes) -> str:
    """Return the encoding under which a sample reads like Portuguese, or an empty text."""
    if is_utf_8(sample):
        return "utf-8"
    ranked = []
    for name in NARROW_ENCODINGS:
        disorder = _disorder(sample, name)
        if disorder is not None:
            wrong = wrong_share(sample.decode(name))
            ranked.append((wrong, disorder, NARROW_ENCODINGS.index(name), name))
    if not ranked:
        return ""
    wrong, _, _, name = min(ranked)
    return name if wrong <= MOST_WRONG_PROPOSED else ""


def is_utf_8(sample: bytes) -> bool:
    """Return whether a sample is UTF-8; its last character may be cut off."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _disorder(sample: bytes, encoding: str) -> float | None:
    """Return the disorder of a sample under an encoding, from 0 to 1.

    Return None if the encoding cannot decode the sample, or leaves too much disorder.
    """
    # Imported here, because most files need no proposal.
    from charset_normalizer import from_bytes

    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return None
    match = from_bytes(sample, cp_isolation=[encoding]).best()
    return None if match is None else float(match.chaos)


def looks_like_utf_16(head: bytes) -> str:
    """Return the form of UTF-16 that a file's head has, or an empty text."""
    for mark, name in BYTE_ORDER_MARKS.items():
        if name == "utf-16" and head.startswith(mark):
            return name
    if head.count(0) <= MOST_ZERO_SHARE * len(head):
        return ""
    even = head[::2].count(0)
    odd = head[1::2].count(0)
    if max(even, odd) < 3 * min(even, odd):
        return ""
    return "utf-16-be" if even > odd else "utf-16-le"


def find_encoding(path: Path, options: ReadOptions) -> str:
    """Return the encoding in which a text file probably is, or an empty text."""
    head = unpacked_head(path, HEAD_BYTES, options)
    if wide := looks_like_utf_16(head):
        return wide
    sample = text_sample(head)
    return "utf-8" if not sample else propose_encoding(sample)


def check_encoding(path: Path, options: ReadOptions) -> ReadOptions:
    """Return the options with a hint for messages about undecodable rows.

    Raise UserError if the file decodes under the stated encoding, but into other letters.
    """
    head = unpacked_head(path, HEAD_BYTES, options)
    stated = options.encoding
    if stated in WIDE_ENCODINGS:
        _check_wide(head, options)
        return options
    sample = text_sample(head)
    if is_utf_8(sample) and (stated == "utf-8" or not sample):
        return options
    proposed = propose_encoding(sample)
    if not proposed or proposed == stated:
        return options
    if _is_wrong(sample, stated, proposed):
        what = f"read as {stated}, its accented letters become other characters"
        raise options.error(what, _fix(proposed, options))
    return options._replace(encoding_hint=f"; it looks like `encoding: {proposed}`")


def _is_wrong(sample: bytes, stated: str, proposed: str) -> bool:
    """Return whether a sample decodes into wrong letters under the stated encoding."""
    if stated == "utf-8":
        # UTF-8 never decodes into other letters; rows that do not decode are refused one by one.
        return False
    as_stated = sample.decode(stated, "replace")
    as_proposed = sample.decode(proposed, "replace")
    enough = len(SPECIAL.findall(as_proposed)) >= LEAST_CHARACTERS
    return enough and wrong_share(as_stated) > MOST_WRONG


def _check_wide(head: bytes, options: ReadOptions) -> None:
    """Raise UserError if a file is not in UTF-16."""
    if not head or looks_like_utf_16(head):
        return
    proposed = propose_encoding(text_sample(head)) or "utf-8"
    what = f"the file cannot be read: it is not {options.encoding}"
    raise options.error(what, _fix(proposed, options))


def _fix(proposed: str, options: ReadOptions) -> str:
    """Return the advice to state another encoding."""
    place = f"source {options.source_name} in params.yaml"
    return f"look at the file, and write `encoding: {proposed}` for {place}"
