"""Make SentencePiece tokenizers of 600 pieces from the demo corpus."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import GemmaTokenizer
from transformers.tokenization_utils_base import generate_merges

from bench.clones import ROOT
from bula.records import read_rows

# protobuf makes the classes of this module when it is imported.
proto: Any = sentencepiece_model_pb2
CHAT_ML = ("<|im_start|>", "<|im_end|>")
SIZE = 600


@cache
def train_pieces(turn_tokens: tuple[str, ...] = CHAT_ML) -> bytes:
    """Return the content of a tokenizer.model with Gemma's control tokens.

    `turn_tokens` are the tokens that a chat template writes around turns.
    """
    texts = [row["answer"] for row in read_rows(ROOT / "data/demo/dev.jsonl")]
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=SIZE,
        model_type="bpe",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        bos_piece="<bos>",
        eos_piece="<eos>",
        minloglevel=2,
        user_defined_symbols=list(turn_tokens),
    )
    return written.getvalue()


def piece_tokenizer(
    template: str, turn_tokens: Sequence[str] = CHAT_ML, **tokens: str
) -> GemmaTokenizer:
    """Return the tokenizer of those pieces, which transformers saves as BPE.

    `tokens` names other special tokens, such as eos_token.
    """
    model = proto.ModelProto.FromString(train_pieces(tuple(turn_tokens)))
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces}
    tokenizer = GemmaTokenizer(
        vocab=vocabulary,
        merges=generate_merges(vocabulary, scores),
        chat_template=template,
        **tokens,
    )
    others = [token for token in turn_tokens if token not in tokens.values()]
    tokenizer.add_special_tokens({"additional_special_tokens": others})
    return tokenizer
