"""Predict the characters of answers from counts of the training answers."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

# A prediction uses the five characters before it.
ORDER = 6
# The characters before an answer and after it. Normalised texts contain no control characters.
START = "\x02"
END = "\x03"
CODE_POINTS = 0x110000


class Counts(NamedTuple):
    """Counts of the training answers."""

    grams: Counter[str]
    """How often each run of 1 to 6 characters occurs."""
    contexts: Counter[str]
    """How often each run is followed by a character."""
    kinds: Counter[str]
    """How many different characters follow each run."""
    alphabet: frozenset[str]
    """The characters that can be predicted, the end of an answer included."""


def count(answers: Iterable[str]) -> Counts:
    """Count the runs of up to ORDER characters that end in a predicted character."""
    grams: Counter[str] = Counter()
    for answer in answers:
        text = pad(answer)
        places = range(ORDER, len(text) + 1)
        for size in range(1, ORDER + 1):
            grams.update(text[place - size : place] for place in places)
    contexts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for gram, times in grams.items():
        contexts[gram[:-1]] += times
        kinds[gram[:-1]] += 1
    alphabet = frozenset(gram for gram in grams if len(gram) == 1)
    return Counts(grams, contexts, kinds, alphabet)


def pad(answer: str) -> str:
    """Return an answer with the characters that stand for its start and its end."""
    return START * (ORDER - 1) + answer + END


def probability(counts: Counts, context: str, character: str) -> float:
    """Return the probability of a character after at most ORDER - 1 others.

    The smoothing is interpolated Witten-Bell (Witten & Bell 1991, method C; as in Chen & Goodman
    1999). With the count c(h) of the context h and the number T(h) of different characters after
    it,

        p(x | h) = (c(h x) + T(h) p(x | h')) / (c(h) + T(h))

    where h' is h without its first character. A context without a count has the probabilities of
    h'. Below the empty context, all characters of the alphabet and one escape are equally
    probable. Any character outside the alphabet is the escape.
    """
    value = 1 / (len(counts.alphabet) + 1)
    for start in range(len(context), -1, -1):
        part = context[start:]
        kinds = counts.kinds[part]
        if not kinds:
            break
        value = (counts.grams[part + character] + kinds * value) / (counts.contexts[part] + kinds)
    return value


def answer_bits(counts: Counts, answer: str) -> float:
    """Return the bits of an answer and its end.

    A character outside the alphabet costs the escape and the choice among all other code points of
    Unicode, so that every text has a probability.
    """
    text = pad(answer)
    others = CODE_POINTS - len(counts.alphabet)
    bits = 0.0
    for place in range(ORDER - 1, len(text)):
        character = text[place]
        context = text[place - ORDER + 1 : place]
        bits -= math.log2(probability(counts, context, character))
        if character not in counts.alphabet:
            bits += math.log2(others)
    return bits
