"""Generate rows with planted repetitions for bench.preprocess.

Every row has a label in `specialty`, KIND NUMBER. The kinds `exact`, `near` and `quote` repeat the
row `own NUMBER` or `item NUMBER`, and one row of each pair must leave. All other rows must stay.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.privacy.given_names import GIVEN_NAMES, fold
from bula.records import SET_NAMES
from bula.text import words

ROOT = Path(__file__).resolve().parent.parent
EXACT_SHARE = 0.10
NEAR_SHARE = 0.05
# Share of the rows with a disclaimer, and with the title of a guideline.
NOTICE_SHARE = 0.02
TITLE_SHARE = 0.01
# Rows that cite one title.
TITLE_ROWS = 8
# Share of the words that a near-duplicate changes.
CHANGED_WORDS = 0.05
BATCH = 4000
# At most this many rows wait to be repeated.
WAITING_ROWS = 50_000
MIN_WORDS = 8
QUOTES = 200
FORM_ROWS = 254
NOTICE = (
    "Este texto tem caráter informativo, não faz diagnóstico e nunca toma o lugar da avaliação de"
    " um médico"
)
TITLE = (
    "De acordo com o Guia Estadual de Acompanhamento das Doenças Crônicas do Adulto na Rede Básica,"
    " volume {} da edição de {},"
)
# Five forms of a question; the name is all that differs. The answers of the last two have one form.
FORMS = (
    "Posso amamentar o meu bebê enquanto uso {}?",
    "Esqueci uma dose de {}, o que devo fazer agora?",
    "Quais são as reações mais frequentes de {}?",
    "Como devo guardar {} em casa depois de aberto?",
    "Grávidas podem usar {} sem receita?",
)
ANSWERS = {
    3: "Guarde {} em lugar seco, na caixa, longe do sol e das crianças, e confira a validade.",
    4: "Não use {} na gravidez sem falar antes com o médico do pré-natal que acompanha você.",
}
NAME_STARTS = ("lor", "per", "dox", "mar", "tiz", "bel", "car", "ven")
NAME_ENDS = ("april", "oxina", "idona", "azol", "umabe", "itina", "eprida")

Words = list[str]
Row = dict[str, Any]


class Length(NamedTuple):
    """The normal distribution of a text's length in words."""

    mean: int
    deviation: int


QUESTION = Length(22, 7)
ANSWER = Length(55, 20)
# A run has 13 words, so a shorter text cannot be found in a quote.
QUOTED = Length(60, 15)


class Original(NamedTuple):
    """A row that may be repeated later: its number and its words."""

    number: int
    question: Words
    answer: Words


class Vocabulary(NamedTuple):
    """The words of the demo corpus, their shares and a generator of random numbers."""

    words: Words
    shares: NDArray[numpy.float64]
    random: numpy.random.Generator


def load_vocabulary(seed: int) -> Vocabulary:
    """Count the words of the demo corpus, without given names.

    A name beside a random word may be redacted in a row and not in its copy in other spelling.
    """
    counts: Counter[str] = Counter()
    with (ROOT / "data/demo/train.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            counts.update(words(f"{row['question']} {row['answer']}"))
    counts = Counter(
        {word: count for word, count in counts.items() if fold(word) not in GIVEN_NAMES}
    )
    frequency = numpy.array(list(counts.values()), float)
    return Vocabulary(
        words=list(counts),
        shares=frequency / frequency.sum(),
        random=numpy.random.default_rng(seed),
    )


def random_texts(vocabulary: Vocabulary, count: int, length: Length) -> list[Words]:
    """Return texts of random words, as word lists."""
    lengths = vocabulary.random.normal(length.mean, length.deviation, count)
    lengths = numpy.clip(lengths, MIN_WORDS, 3 * length.mean).astype(int)
    chosen = vocabulary.random.choice(
        len(vocabulary.words),
        lengths.sum(),
        p=vocabulary.shares,
    )
    ends = numpy.cumsum(lengths)
    texts = []
    for indices in numpy.split(chosen, ends[:-1]):
        texts.append([vocabulary.words[index] for index in indices])
    return texts


def random_text(vocabulary: Vocabulary, length: Length) -> str:
    """Return one text of random words."""
    [text] = random_texts(vocabulary, 1, length)
    return " ".join(text).capitalize()


def random_word(vocabulary: Vocabulary) -> str:
    """Return one word of the vocabulary."""
    index = vocabulary.random.integers(len(vocabulary.words))
    return vocabulary.words[int(index)]


def restyle(vocabulary: Vocabulary, text: Words) -> str:
    """Return the same words with other case, punctuation and spacing."""
    signs = vocabulary.random.choice(["  ", " ", ", ", " - "], len(text))
    pairs = zip(text, signs, strict=True)
    joined = "".join(word + sign for word, sign in pairs)
    if vocabulary.random.random() < 0.5:
        return joined.upper() + "!!"
    return joined.capitalize() + " ..."


def edit(vocabulary: Vocabulary, text: Words) -> str:
    """Return the text with some words replaced, removed or added."""
    edited = list(text)
    changes = max(1, int(CHANGED_WORDS * len(text)))
    places = vocabulary.random.integers(0, len(text), changes)
    actions = vocabulary.random.integers(0, 3, changes)
    for chosen, action in zip(places, actions, strict=True):
        place = min(int(chosen), len(edited) - 1)
        if action == 0:
            edited[place] = random_word(vocabulary)
        elif action == 1 and len(edited) > MIN_WORDS:
            del edited[place]
        else:
            edited.insert(place, random_word(vocabulary))
    return " ".join(edited)


def make_rows(count: int, seed: int) -> Iterator[Row]:
    """Yield `count` raw rows as ingest writes them, and then the forms and quotes."""
    vocabulary = load_vocabulary(seed)
    planted = [_random_rows(vocabulary, count), _form_rows(vocabulary), _quote_rows(vocabulary)]
    line = 0
    for rows in planted:
        for row in rows:
            line += 1
            yield row | {"file": "bench", "line": line}


def _random_rows(vocabulary: Vocabulary, count: int) -> Iterator[Row]:
    """Yield rows of random words; some repeat another row, and some contain boilerplate."""
    waiting: list[Original] = []
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        questions = random_texts(vocabulary, size, QUESTION)
        answers = random_texts(vocabulary, size, ANSWER)
        draws = vocabulary.random.random(size)
        for offset, draw in enumerate(draws):
            original = Original(start + offset, questions[offset], answers[offset])
            label, question, answer = _vary(vocabulary, original, draw, waiting)
            yield {"question": question, "answer": answer, "specialty": label}


def _vary(
    vocabulary: Vocabulary,
    row: Original,
    draw: float,
    waiting: list[Original],
) -> tuple[str, str, str]:
    """Return the label, question and answer of a row.

    A low draw replaces the row by a repetition of a waiting row. Each row is repeated at most once,
    so that every planted pair is counted separately. A high draw adds boilerplate.
    """
    if draw < EXACT_SHARE + NEAR_SHARE and waiting:
        index = vocabulary.random.integers(len(waiting))
        original = waiting.pop(int(index))
        if draw < EXACT_SHARE:
            question = restyle(vocabulary, original.question)
            answer = restyle(vocabulary, original.answer)
            return f"exact {original.number}", question, answer
        question = edit(vocabulary, original.question)
        answer = edit(vocabulary, original.answer)
        return f"near {original.number}", question + "?", answer + "."
    question = " ".join(row.question).capitalize() + "?"
    answer = " ".join(row.answer).capitalize() + "."
    if draw > 1 - NOTICE_SHARE:
        return f"notice {row.number}", question, f"{answer} {NOTICE}."
    if draw > 1 - NOTICE_SHARE - TITLE_SHARE:
        volume = row.number // int(TITLE_ROWS / TITLE_SHARE)
        title = TITLE.format(volume, 1990 + volume % 30)
        return f"title {row.number}", f"{title} {question}", answer
    if len(waiting) < WAITING_ROWS:
        waiting.append(row)
    return f"own {row.number}", question, answer


def _form_rows(vocabulary: Vocabulary) -> Iterator[Row]:
    """Yield questions of five forms about different drugs."""
    names = [start + end for start, end in product(NAME_STARTS, NAME_ENDS)]
    pairs = islice(product(names, range(len(FORMS))), FORM_ROWS)
    for number, (name, form) in enumerate(pairs):
        answer = ANSWERS.get(form, f"{random_text(vocabulary, ANSWER)} {{}}.")
        yield {
            "question": FORMS[form].format(name),
            "answer": answer.format(name),
            "specialty": f"form {number}",
        }


def _quote_rows(vocabulary: Vocabulary) -> Iterator[Row]:
    """Yield validation rows, and training rows whose answers quote the validation answers."""
    for number in range(QUOTES):
        answer = random_text(vocabulary, QUOTED)
        yield {
            "question": random_text(vocabulary, QUESTION) + "?",
            "answer": f"{answer}.",
            "specialty": f"item {number}",
            "split": SET_NAMES[number % len(SET_NAMES)],
        }
        before = random_text(vocabulary, QUESTION)
        after = random_text(vocabulary, QUESTION)
        yield {
            "question": random_text(vocabulary, QUESTION) + "?",
            "answer": f"{before}: {answer}. {after}.",
            "specialty": f"quote {number}",
            "split": "train",
        }
