"""Write the SentencePiece file that llama.cpp's converters read.

transformers 5 saves only tokenizer.json. For a vocabulary that was made by SentencePiece (Gemma,
Mistral, Llama 2), the converters need tokenizer.model: without it they refuse the model, or give
all tokens one score, so that llama.cpp splits words differently.
"""

import json
import re
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2

# protobuf makes the classes of this module when it is imported.
proto: Any = sentencepiece_model_pb2
NAME = "tokenizer.model"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
PIECE = proto.ModelProto.SentencePiece


def write_pieces(model: Path, file: Path) -> None:
    """Write the SentencePiece form of a model's tokenizer.json.

    Nothing is written if the tokenizer was not made by SentencePiece.
    """
    text_of_state = (model / "tokenizer.json").read_text(encoding="utf-8")
    state = json.loads(text_of_state)
    vocabulary = state["model"]
    is_bpe = vocabulary["type"] == "BPE"
    if not is_bpe or not vocabulary.get("byte_fallback"):
        return
    pieces = proto.ModelProto()
    pieces.trainer_spec.model_type = proto.TrainerSpec.BPE
    pieces.trainer_spec.byte_fallback = True
    pieces.normalizer_spec.add_dummy_prefix = _adds_space(state)
    ranks = _merge_ranks(vocabulary["merges"])
    types = _special_types(state)
    texts = {number: text for text, number in vocabulary["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in state["added_tokens"]}
    for number in range(max(texts) + 1):
        # A piece's place is its id, so an id without a token needs a piece, too.
        text = texts.get(number, f"[PAD{number}]")
        # llama.cpp merges the pair with the highest score first, tokenizers with the lowest rank.
        rank = ranks.get(text, len(ranks))
        score = -float(rank)
        plain = PIECE.BYTE if BYTE.fullmatch(text) else PIECE.NORMAL
        kind = types.get(text, plain)
        pieces.pieces.add(piece=text, score=score, type=kind)
    file.write_bytes(pieces.SerializeToString())


def _adds_space(state: dict[str, Any]) -> bool:
    """Return whether the tokenizer puts a space before each text."""
    steps = json.dumps([state.get("normalizer"), state.get("pre_tokenizer")])
    return '"Prepend"' in steps or '"prepend_scheme": "first"' in steps


def _merge_ranks(merges: list[Any]) -> dict[str, int]:
    """Return the rank of the first merge that makes each piece."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    return ranks


def _special_types(state: dict[str, Any]) -> dict[str, int]:
    """Return SentencePiece's types of the added tokens and the unknown token."""
    types = {}
    for token in state["added_tokens"]:
        types[token["content"]] = PIECE.CONTROL if token["special"] else PIECE.USER_DEFINED
    types[state["model"]["unk_token"]] = PIECE.UNKNOWN
    return types
