"""Score answers against their references by BERTScore.

BERTScore (Zhang et al. 2020) gives every token a vector, the hidden state of an encoder at one
layer, and matches each token to the most similar token of the other text. The matching is
bert_score's own. The encoding is not: bert_score 0.3.13 fails on empty texts and on tokenizers
without a length limit under transformers 5, and it cuts long texts without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bula.errors import UserError
from bula.files import sha256_file, sha256_values
from bula.models import list_model_files, load_encoder, load_model, load_plain_tokenizer
from bula.params import BaseEncoder, HubModel, Params
from bula.records import Row
from bula.stats import bootstrap_mean, standard_error

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Precision, recall and F1 in rows and metrics.
PARTS = ("precision", "recall", "f")
# The parameter that names the encoder.
KEY = "bertscore.encoder"
# A tokenizer without a limit states a number of about 1e30.
MOST_TOKENS = 10**9
# The token before a text and the token after it. They may be matched, but they have no weight.
SPECIAL_TOKENS = 2
Figures = dict[str, int | float]


class Encoder(NamedTuple):
    """A model whose hidden states at one layer stand for tokens."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layer: int
    most_tokens: int
    """Longest text in tokens, with the two special tokens."""
    settings: dict[str, int | str]
    """Encoder and layer, for the metrics."""
    key: str = KEY
    """The parameter that names the encoder, for messages."""


class Encoded(NamedTuple):
    """The token ids of a text, and whether the text was cut."""

    ids: list[int]
    is_cut: bool

    @property
    def is_empty(self) -> bool:
        """Return whether there are only the special tokens."""
        return len(self.ids) == SPECIAL_TOKENS


class Score(NamedTuple):
    """BERTScore of an answer against its reference."""

    precision: float
    recall: float
    f: float


# --- The encoder ------------------------------------------------------------------------------


def open_encoder(params: Params, base: Path, fetched: Path) -> Encoder:
    """Return the encoder that params.yaml names.

    `base` is the folder of the base model, and `fetched` that of an encoder of another kind. The
    weights are computed in float32. Raise UserError if the encoder lacks the layer.
    """
    from bula.scoring import find_decoder

    source = params.bertscore.encoder
    layer = params.bertscore.layer
    if isinstance(source, BaseEncoder):
        path = base
        model = find_decoder(load_model(path, "float32"))
        model.config.use_cache = False
    else:
        path = fetched
        model = load_encoder(path)
    layers = model.config.get_text_config().num_hidden_layers
    if layer > layers:
        what = f"bertscore.layer is {layer}, but the encoder in {path} has {layers} layers"
        raise UserError("params.yaml", what, "lower bertscore.layer")
    tokenizer = load_plain_tokenizer(path)
    settings = describe(params, path)
    return Encoder(model, tokenizer, layer, longest_input(model, tokenizer), settings)


def describe(params: Params, path: Path) -> dict[str, int | str]:
    """Return the settings that identify the encoder and its layer."""
    source = params.bertscore.encoder
    settings: dict[str, int | str] = {
        "layer": params.bertscore.layer,
        "weights_sha256": hash_weights(path),
    }
    if isinstance(source, HubModel):
        return settings | {"encoder": source.id, "revision": source.revision}
    # The name of a folder elsewhere says nothing to a reader of the metrics.
    name = path.as_posix() if isinstance(source, BaseEncoder) else Path(source.path).name
    return settings | {"encoder": name}


def hash_weights(path: Path) -> str:
    """Return one SHA-256 of all weight files of a model directory."""
    files = [file for file in list_model_files(path) if file.suffix == ".safetensors"]
    hashes = [sha256_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else sha256_values(hashes)


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens that an encoder reads.

    It is the tokenizer's limit or the number of usable positions, whichever is smaller. Some
    RoBERTa tokenizers have no limit.
    """
    positions = model.config.get_text_config().max_position_embeddings
    usable = positions - unused_positions(model)
    return int(min(tokenizer.model_max_length, usable, MOST_TOKENS))


def unused_positions(model: PreTrainedModel) -> int:
    """Return how many position embeddings belong to no token.

    RoBERTa and the models that follow it number positions from padding_idx + 1, so that 514
    positions hold 512 tokens. BERT numbers them from 0.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0


# --- Texts ------------------------------------------------------------------------------------


def encode_text(encoder: Encoder, text: str) -> Encoded:
    """Return the ids of a text between two special tokens.

    For BERT these are [CLS] and [SEP]; a decoder has its BOS and EOS tokens in their place. A text
    that is too long loses its end.
    """
    tokenizer = encoder.tokenizer
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    room = encoder.most_tokens - SPECIAL_TOKENS
    first, last = _special_ids(tokenizer, encoder.key)
    return Encoded([first, *ids[:room], last], is_cut=len(ids) > room)


def _special_ids(tokenizer: PreTrainedTokenizerBase, key: str) -> tuple[int, int]:
    """Return the ids of the tokens before and after a text.

    Raise UserError, which names the parameter `key`, if the tokenizer has neither a separator nor
    an EOS token.
    """
    last = _first_known(tokenizer.sep_token_id, tokenizer.eos_token_id)
    if last is None:
        what = "its tokenizer has neither a [SEP] nor an EOS token"
        raise UserError(key, what, f"name another encoder in {key}")
    first = _first_known(tokenizer.cls_token_id, tokenizer.bos_token_id, last)
    return int(first or 0), last


def _first_known(*ids: int | None) -> int | None:
    """Return the first id that is not None."""
    return next((number for number in ids if number is not None), None)


def embed(encoder: Encoder, texts: list[Encoded]) -> list[Tensor]:
    """Return the hidden states of each text, in float32 on the CPU.

    Each tensor has the shape (tokens, width).
    """
    import torch

    # The mask hides the padding, so any known id will do.
    padding = encoder.tokenizer.pad_token_id or 0
    longest = max(len(text.ids) for text in texts)
    rows = []
    mask = []
    for text in texts:
        missing = longest - len(text.ids)
        rows.append(text.ids + [padding] * missing)
        mask.append([1] * len(text.ids) + [0] * missing)
    place = encoder.model.device
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor(rows, device=place),
        "attention_mask": torch.tensor(mask, device=place),
    }
    with torch.inference_mode():
        output = encoder.model(**inputs, output_hidden_states=True)
        states = output.hidden_states[encoder.layer].float().cpu()
    return [state[: len(text.ids)] for state, text in zip(states, texts, strict=True)]


# --- Scores -----------------------------------------------------------------------------------


def match(answer: Tensor, reference: Tensor) -> Score:
    """Return precision, recall and F1 of two texts by greedy matching.

    Each text is a tensor of shape (tokens, width) whose first and last rows are special tokens. The
    library gets one pair at a time: in a batch, its padding would count as a cosine of 0.
    """
    from bert_score.utils import greedy_cos_idf

    # The library divides its arguments in place.
    parts = greedy_cos_idf(*_with_weights(reference), *_with_weights(answer))
    return Score(*(float(part.item()) for part in parts))


def _with_weights(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states, mask and weights in the form of bert_score.

    Every token has the weight 1 (no idf), and the special tokens have the weight 0.
    """
    import torch

    weights = torch.ones(1, len(states))
    weights[:, 0] = 0
    weights[:, -1] = 0
    return states.unsqueeze(0).clone(), torch.ones(1, len(states)), weights


def score_pairs(encoder: Encoder, rows: list[Row], batch_size: int) -> list[Row]:
    """Return one row of scores per answer, in the order given.

    A row contains id, set, variant, precision, recall and F1, and whether a text was cut. A text
    without a token scores 0. Answers of similar length share a batch, which needs little padding.
    """
    pairs = []
    for row in rows:
        answer = encode_text(encoder, row["generated"])
        pairs.append((answer, encode_text(encoder, row["answer"])))
    order = sorted(range(len(rows)), key=lambda index: -_longer(pairs[index]))
    scores: dict[int, Score] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found = _score_batch(encoder, [pairs[index] for index in chosen])
        scores.update(zip(chosen, found, strict=True))
    return [_to_row(row, pairs[index], scores[index]) for index, row in enumerate(rows)]


def _longer(pair: tuple[Encoded, Encoded]) -> int:
    """Return the number of tokens of the longer text."""
    return max(len(text.ids) for text in pair)


def _score_batch(encoder: Encoder, pairs: list[tuple[Encoded, Encoded]]) -> list[Score]:
    """Return the score of each pair of answer and reference."""
    answers = embed(encoder, [answer for answer, _ in pairs])
    references = embed(encoder, [reference for _, reference in pairs])
    scores = []
    for pair, answer, reference in zip(pairs, answers, references, strict=True):
        is_empty = any(text.is_empty for text in pair)
        scores.append(Score(0.0, 0.0, 0.0) if is_empty else match(answer, reference))
    return scores


def _to_row(row: Row, pair: tuple[Encoded, Encoded], score: Score) -> Row:
    """Return the row of scores of one answer."""
    answer, reference = pair
    return {
        "id": row["id"],
        "split": row["split"],
        "variant": row["variant"],
        **{f"bertscore_{part}": getattr(score, part) for part in PARTS},
        "answer_cut": answer.is_cut,
        "reference_cut": reference.is_cut,
    }


def summarise(rows: list[Row], params: Params) -> Figures:
    """Return mean, standard error and interval of each score, and the counts."""
    settings = params.bertscore
    figures: Figures = {
        "items": len(rows),
        "answers_cut": sum(row["answer_cut"] for row in rows),
        "references_cut": sum(row["reference_cut"] for row in rows),
    }
    for part in PARTS:
        name = f"bertscore_{part}"
        values = [row[name] for row in rows]
        low, high = bootstrap_mean(
            values, settings.resamples, settings.confidence, params.sampling_seed
        )
        figures[name] = sum(values) / len(values)
        figures[f"{name}_stderr"] = standard_error(values)
        figures[f"{name}_low"] = low
        figures[f"{name}_high"] = high
    return figures


def group_by(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    """Return the rows of each value of a key, in order."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[key]):
        groups.setdefault(row[key], []).append(row)
    return groups
