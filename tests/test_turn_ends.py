"""Test that the end of a turn is found in what the chat template writes."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from bula.errors import UserError
from bula.models import end_token_ids
from bula.prompts import encode, encode_turns, token_lengths
from bula.records import Turn
from bula.trial_example import TRIAL
from bula.turn_ends import rendered_end
from stages.models.own_template import name_end_of_turn, name_unknown_end

EXAMPLE = TRIAL.model_copy(update={"history": [Turn(question="Dói?", answer="Não.")]})
SPECIAL = ["<unk>", "<bos>", "<eos>", "<pad>", "<|fim|>"]


def make_tokenizer(end: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single characters whose template ends each message with `end`."""
    signs = [chr(code) for code in [10, *range(32, 127)]] + list("êéáíóçãàúâõô")
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *signs])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split("", "isolated")
    backend.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
        + end
        + "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    return tokenizer


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("<|fim|>\n", "<|fim|>"),
        ("{{ ' \n' + eos_token }}", "<eos>"),
        ("<|fim|>{{ eos_token }}", "<|fim|>"),
        # Plain text, and an error, are no ends.
        ("\n", None),
        (" fim <|fim|>", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_the_token_after_the_answer_ends_the_turn(end: str, expected: str | None) -> None:
    assert rendered_end(make_tokenizer(end)) == expected


def test_an_unknown_end_of_turn_is_supervised_and_stops_answers() -> None:
    tokenizer = make_tokenizer("<|fim|>\n")
    assert end_token_ids(tokenizer) == [2, 4]
    encoded = encode(tokenizer, EXAMPLE)
    assert tokenizer.decode(encoded.completion).replace(" ", "") == "Sim,comprotetorsolar.<|fim|>"
    assert encode_turns(tokenizer, EXAMPLE).labels.count(4) == 2
    [(prompt, length)] = token_lengths(tokenizer, [EXAMPLE])
    assert (prompt, length) == (len(encoded.prompt), len(encoded.input_ids))


def test_another_template_of_the_same_tokenizer_has_another_end() -> None:
    tokenizer = make_tokenizer("<|fim|>")
    assert rendered_end(tokenizer) == "<|fim|>"
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|fim|>", "<eos>")
    assert rendered_end(tokenizer) == "<eos>"


def test_ingest_names_the_end_of_an_own_template() -> None:
    tokenizer = make_tokenizer("<|fim|>")
    name_end_of_turn(tokenizer, "")
    assert tokenizer.eos_token == "<eos>"
    name_end_of_turn(tokenizer, "a.jinja")
    assert tokenizer.eos_token == "<|fim|>"
    with pytest.raises(UserError, match=r"a\.jinja: it names no end-of-turn token.*special token"):
        name_end_of_turn(make_tokenizer("\n"), "a.jinja")


def test_ingest_names_an_end_that_llama_cpp_does_not_know() -> None:
    tokenizer = make_tokenizer("<|fim|>")
    name_unknown_end(tokenizer)
    assert tokenizer.eos_token == "<|fim|>"
    plain = make_tokenizer("\n")
    name_unknown_end(plain)
    assert plain.eos_token == "<eos>"
