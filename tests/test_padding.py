"""Test which token pads the rows of a Phi-3, whose turns do not end with its EOS token."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Phi3Config

from bula.models import load_tokenizer, save_model
from bula.prompts import encode
from bula.scoring import pad_batch
from tests.pieces import piece_tokenizer
from tests.test_train import example

TURN_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
# As in Phi 3: each turn ends with <|end|>, and a complete chat with the EOS token.
TURNS = "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
START = "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}"
OWN_EOS = TURNS + START + "{{ eos_token }}{% endif %}"
NAMED_EOS = TURNS + START + "{{ '<|endoftext|>' }}{% endif %}"
EXAMPLES = [
    example("Dói?", "Não."),
    example("Posso tomar sol sem protetor no rosto?", "Sim, mas use um chapéu."),
]


def save_phi3(folder: Path, padding: str | None, template: str) -> Path:
    """Write a small Phi-3 whose tokenizer names a padding token, and return its folder."""
    tokenizer = piece_tokenizer(template, TURN_TOKENS, eos_token="<|endoftext|>")
    config = Phi3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    tokenizer.pad_token = padding
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, folder / "phi3")
    return folder / "phi3"


@pytest.mark.parametrize(
    ("padding", "template", "expected"),
    [
        # As Phi 3's own files are: <|endoftext|> ends the chat, but no turn.
        ("<|endoftext|>", OWN_EOS, "<|endoftext|>"),
        ("<|end|>", OWN_EOS, "<|endoftext|>"),
        (None, OWN_EOS, "<|endoftext|>"),
        # A template that writes both may end a turn with both.
        ("<|endoftext|>", NAMED_EOS, "<pad>"),
        ("<|end|>", NAMED_EOS, "<pad>"),
        ("<|user|>", NAMED_EOS, "<|user|>"),
    ],
    ids=["own", "end of turn", "none", "both, EOS", "both, end of turn", "another token"],
)
def test_the_padding_of_phi_3_never_ends_a_turn(
    padding: str | None, template: str, expected: str, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(save_phi3(tmp_path, padding, template))
    assert tokenizer.pad_token == expected
    encoded = [encode(tokenizer, item) for item in EXAMPLES]
    end_of_turn = tokenizer.convert_tokens_to_ids("<|end|>")
    assert [item.completion[-1] for item in encoded] == [end_of_turn] * 2
    batch = pad_batch(encoded, tokenizer.pad_token_id)
    # The first row is the shorter one: its end of turn is a label, and padding follows.
    last = len(encoded[0].input_ids) - 1
    assert batch["labels"][0, last] == end_of_turn
    assert set(batch["input_ids"][0, last + 1 :].tolist()) == {tokenizer.pad_token_id}
    assert set(batch["labels"][0, last + 1 :].tolist()) == {-100}
