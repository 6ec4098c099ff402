"""Find the examples that share a question or a reference answer.

Scores of such examples resemble each other, so statistics must not count them as independent.
"""

import unicodedata
from collections.abc import Iterable

import numpy as np

from bula.records import Example
from bula.text import comparison_key, words

# Shorter words are mostly articles and prepositions, in which paraphrases differ.
MIN_LETTERS = 3


def question_group(question: str) -> str:
    """Return a key that paraphrases of a question share.

    The key consists of the question's words of three letters and more, without accents, order
    and repetition.
    """
    decomposed = unicodedata.normalize("NFD", question.lower())
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    distinct = {word for word in words(plain) if len(word) >= MIN_LETTERS}
    return " ".join(sorted(distinct)) or comparison_key(question)


def example_groups(examples: Iterable[Example]) -> dict[str, str]:
    """Return the group of each example by id.

    The name of a group is the id of its first example.

    Two examples are in one group if their first questions have one `question_group`, or if their
    answers are equal without case, punctuation and spacing. Groups that share an example are one
    group.
    """
    ids: list[str] = []
    numbers: dict[str, int] = {}
    edges: list[tuple[int, int]] = []
    for example in examples:
        question = "question: " + question_group(example.turns[0].question)
        answer = "answer: " + comparison_key(example.answer)
        for key in (question, answer):
            edges.append((len(ids), numbers.setdefault(key, len(numbers))))
        ids.append(example.id)
    labels = _components(edges, len(ids), len(numbers))
    first: dict[int, str] = {}
    return {name: first.setdefault(label, name) for name, label in zip(ids, labels, strict=True)}


def _components(edges: list[tuple[int, int]], examples: int, keys: int) -> list[int]:
    """Return the connected component of each example.

    An edge joins an example and a key.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    size = examples + keys
    if not size:
        return []
    rows = np.array([example for example, _ in edges])
    columns = np.array([examples + key for _, key in edges])
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    components: list[int] = labels[:examples].tolist()
    return components
