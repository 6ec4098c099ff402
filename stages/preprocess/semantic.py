"""Find training questions with the meaning of an item's question.

Paraphrases and translations share no runs of words, so an encoder compares them: the mean of its
last hidden states is the embedding of a question (Reimers and Gurevych 2019), and the cosine of two
embeddings decides. A multilingual encoder compares languages too.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bula.bertscore import Encoder, embed, encode_text, longest_input
from bula.models import load_encoder, load_plain_tokenizer
from bula.params import NoEncoder, Preprocess
from stages.preprocess.minhash import Flags, Indices, is_first_of_run
from stages.preprocess.near_duplicates import Matches, concatenate_matches
from stages.preprocess.parts import question_text
from stages.preprocess.table import Corpus, rows_at

# Questions that the encoder reads at once.
BATCH_TEXTS = 32
# Training rows that are compared with all items at once.
BLOCK_ROWS = 1024
Vectors = NDArray[numpy.float32]


def same_meanings(corpus: Corpus, comparable: Flags, params: Preprocess) -> Matches:
    """Return the training rows that ask the question of an item.

    Each row is paired with the item of each set whose question is nearest, if it is near enough.
    Items are the rows of benchmarks and of A to E. There are no pairs without an encoder.
    """
    table = corpus.table
    is_item = table.split < table.dev
    items = numpy.flatnonzero(comparable & is_item)
    train = numpy.flatnonzero(comparable & (table.split == table.train))
    source = params.encoder
    if isinstance(source, NoEncoder) or not len(items):
        return no_matches()
    encoder = open_encoder(Path(source.path))
    item_vectors = numpy.concatenate(list(_embed_rows(encoder, corpus, items)))
    # Items are in rank order, so each set is one block.
    set_starts = numpy.flatnonzero(is_first_of_run(table.split[items]))
    blocks = []
    done = 0
    for vectors in _embed_rows(encoder, corpus, train):
        cosine = vectors @ item_vectors.T
        rows = train[done : done + len(vectors)]
        done += len(vectors)
        for start, end in pairwise([*set_starts.tolist(), len(items)]):
            found = _nearest(cosine[:, start:end], params.contamination.cosine_threshold)
            row, item, similarity = found
            blocks.append(Matches(items[start + item], rows[row], similarity))
    return concatenate_matches(*blocks) if blocks else no_matches()


def _nearest(cosine: Vectors, threshold: float) -> tuple[Indices, Indices, NDArray[numpy.float64]]:
    """Return the rows that reach the threshold, their nearest item and its cosine.

    `cosine` has the shape (rows, items).
    """
    best = cosine.argmax(axis=1)
    similarity = cosine[numpy.arange(len(best)), best].astype(numpy.float64)
    rows = numpy.flatnonzero(similarity >= threshold)
    return rows, best[rows], similarity[rows]


def no_matches() -> Matches:
    """Return no pair."""
    nothing = numpy.empty(0, numpy.int64)
    return Matches(nothing, nothing, numpy.empty(0))


def open_encoder(path: Path) -> Encoder:
    """Return the encoder of a directory, with its last layer."""
    model = load_encoder(path)
    tokenizer = load_plain_tokenizer(path)
    layer = model.config.get_text_config().num_hidden_layers
    return Encoder(model, tokenizer, layer, longest_input(model, tokenizer), {})


def _embed_rows(encoder: Encoder, corpus: Corpus, ranks: Indices) -> Iterator[Vectors]:
    """Yield the embeddings of the questions of rows in blocks."""
    for start in range(0, len(ranks), BLOCK_ROWS):
        rows = rows_at(corpus.table, corpus.work, ranks[start : start + BLOCK_ROWS])
        yield embed_questions(encoder, [question_text(row["example"]) for row in rows])


def embed_questions(encoder: Encoder, questions: list[str]) -> Vectors:
    """Return the embeddings of questions, of length 1, shape (questions, width)."""
    texts = [encode_text(encoder, question) for question in questions]
    # Texts of one length need no padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
    vectors: dict[int, Vectors] = {}
    for start in range(0, len(order), BATCH_TEXTS):
        batch = order[start : start + BATCH_TEXTS]
        states = embed(encoder, [texts[index] for index in batch])
        for index, state in zip(batch, states, strict=True):
            vectors[index] = state.mean(dim=0).numpy()
    matrix = numpy.stack([vectors[index] for index in range(len(texts))])
    lengths = numpy.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Vectors = matrix / numpy.maximum(lengths, numpy.finfo(numpy.float32).tiny)
    return unit
