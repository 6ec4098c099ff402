"""Answer questions without a model: stock, nearest and echo."""

from collections.abc import Iterable, Sequence

from bula.records import Example
from bula.text import words


def stock(train: list[Example], asked: list[Example]) -> list[str]:
    """Return one training answer for every question.

    It has the highest mean ROUGE-L F1 against the other training answers.
    """
    answers = [example.answer for example in train]
    best = answers[stock_index(answers)]
    return [best] * len(asked)


def stock_index(answers: Sequence[str]) -> int:
    """Return the index of the answer that is most like the others by ROUGE-L.

    The first of several such answers is taken. Every pair is compared, so the result is exact.
    """
    texts = [words(answer) for answer in answers]
    totals = [0.0] * len(texts)
    for index, text in enumerate(texts):
        masks = position_masks(text)
        for other in range(index):
            f1 = rouge_l(masks, len(text), texts[other])
            # F1 is equal in both directions, because exchanged texts exchange precision and recall.
            totals[index] += f1
            totals[other] += f1
    return totals.index(max(totals))


def rouge_l(masks: dict[str, int], length: int, other: list[str]) -> float:
    """Return the ROUGE-L F1 of two texts, one of them as position masks.

    With m and n words and a longest common subsequence of l words, it is 2 l / (m + n).
    """
    both = length + len(other)
    return 2 * common_length(masks, length, other) / both if both else 0.0


def position_masks(text: Iterable[str]) -> dict[str, int]:
    """Return an integer per word, with a bit for each position of the word."""
    masks: dict[str, int] = {}
    for position, word in enumerate(text):
        masks[word] = masks.get(word, 0) | 1 << position
    return masks


def common_length(masks: dict[str, int], length: int, other: Iterable[str]) -> int:
    """Return the length of the longest common subsequence.

    One integer operation handles a complete row of the table (Hyyrö 2004). A 0 bit of `row` is a
    position at which the subsequence grows by a word.
    """
    ones = (1 << length) - 1
    row = ones
    for word in other:
        matches = row & masks.get(word, 0)
        if matches:
            row = (row + matches) | (row - matches)
    return length - (row & ones).bit_count()


def nearest(train: list[Example], asked: list[Example]) -> list[str]:
    """Return the answer of the nearest training question for each question.

    The measure is the cosine of TF-IDF vectors of words. The first of several nearest questions is
    taken, and the first training question if no word is shared.
    """
    # sklearn takes a second to import.
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=words)
    known = vectorizer.fit_transform([conversation(example) for example in train])
    questions = vectorizer.transform([conversation(example) for example in asked])
    found = []
    for row in questions:
        # The vectors have length 1, so the product is the cosine.
        cosines = (known @ row.T).toarray().ravel()
        found.append(train[int(cosines.argmax())].answer)
    return found


def conversation(example: Example) -> str:
    """Return all questions of an example as one text."""
    return " ".join(turn.question for turn in example.turns)


def echo(asked: list[Example]) -> list[str]:
    """Return each question itself as its answer."""
    return [example.question for example in asked]
