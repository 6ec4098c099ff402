import json
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from transformers import PreTrainedTokenizerBase

from bula.errors import UserError
from bula.gguf_export import convert
from bula.models import load_tokenizer
from bula.prompts import SYSTEM_PROMPT, encode, encode_prompt, prompt_hash, token_lengths
from bula.serving import serve_llama_cpp
from bula.trial_example import TRIAL


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(smollm2)


def test_the_prompt_is_the_chat_up_to_the_assistants_turn(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    text = tokenizer.decode(encode_prompt(tokenizer, TRIAL.question))
    assert text == (
        f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
        f"<|im_start|>user\n{TRIAL.question}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_completion_is_the_answer_and_the_end_of_turn(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoded = encode(tokenizer, TRIAL)
    assert tokenizer.decode(encoded.completion) == f"{TRIAL.answer}<|im_end|>"
    assert encoded.completion[-1] == tokenizer.eos_token_id


def test_only_the_completion_is_supervised(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(tokenizer, TRIAL)
    supervised = [label for label in encoded.labels if label != -100]
    assert supervised == encoded.completion
    assert len(encoded.labels) == len(encoded.input_ids)


def test_the_padding_token_is_not_the_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_completion_ends_before_a_second_end_token(smollm2: Path) -> None:
    tokenizer = load_tokenizer(smollm2)
    # As in Phi 3: the template writes an end-of-text token after the last turn.
    tokenizer.chat_template = str(tokenizer.chat_template) + (
        "{% if not add_generation_prompt %}{{ '<|endoftext|>' }}{% endif %}"
    )
    tokenizer.eos_token = "<|endoftext|>"
    encoded = encode(tokenizer, TRIAL)
    assert tokenizer.decode(encoded.completion).endswith("<|im_end|>")
    assert tokenizer.decode(encoded.completion).count("<|") == 1


def test_a_template_without_an_end_of_turn_is_refused(smollm2: Path) -> None:
    broken = load_tokenizer(smollm2)
    broken.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match=r"ends a turn without '<\|im_end\|>'"):
        encode(broken, TRIAL)
    with pytest.raises(UserError, match=r"ends a turn without '<\|im_end\|>'"):
        token_lengths(broken, [TRIAL])


def test_a_template_that_does_not_continue_its_prompt_is_refused(smollm2: Path) -> None:
    broken = load_tokenizer(smollm2)
    broken.chat_template = (
        "{{ messages | length }}<|im_end|>{% if add_generation_prompt %}?{% endif %}"
    )
    with pytest.raises(UserError, match="does not continue its own prompt"):
        encode(broken, TRIAL)
    with pytest.raises(UserError, match="does not continue its own prompt"):
        token_lengths(broken, [TRIAL])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% endif %}", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% include 'x' %}", "TypeError"),
        ("{{ 2 % 0 }}", "ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "TypeError"),
    ],
)
def test_an_error_of_a_template_becomes_a_user_error(
    template: str, name: str, smollm2: Path
) -> None:
    broken = load_tokenizer(smollm2)
    broken.chat_template = template
    with pytest.raises(UserError, match=f"its chat template cannot be rendered .{name}: "):
        encode_prompt(broken, TRIAL.question)


def test_different_prompts_have_different_hashes() -> None:
    # Both prompts have the digits 1, 2 and 3.
    assert prompt_hash([1, 23]) != prompt_hash([12, 3])
    assert prompt_hash([1, 23]) == prompt_hash([1, 23])


def test_llama_cpp_splits_text_into_the_same_tokens(
    tokenizer: PreTrainedTokenizerBase, tiny: Path, tmp_path: Path
) -> None:
    convert(tiny, "bf16", tmp_path / "tiny.gguf")
    text = "Tome 1.500 mg às 22h, não mais;  Coração à noite?\n\n- ação: 3,5 ml/kg"
    body = json.dumps({"content": text, "add_special": False}).encode()
    with serve_llama_cpp(tmp_path / "tiny.gguf", 1, 256) as [endpoint]:
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {endpoint.key}",
        }
        request = Request(endpoint.url.removesuffix("/v1") + "/tokenize", body, headers)
        tokens = json.load(urlopen(request))["tokens"]
    assert tokens == tokenizer(text, add_special_tokens=False)["input_ids"]


# Templates of other models


def set_template(smollm2: Path, template: str) -> PreTrainedTokenizerBase:
    """Return SmolLM2's tokenizer with another chat template."""
    other = load_tokenizer(smollm2)
    other.chat_template = template
    return other


TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + END + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
DROPS_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"


@pytest.mark.parametrize("start", [REFUSES_SYSTEM, DROPS_SYSTEM], ids=["refuses", "drops"])
def test_without_a_system_role_the_prompt_opens_the_question(start: str, smollm2: Path) -> None:
    other = set_template(smollm2, start + TURNS.replace("END", "'<|im_end|>'"))
    encoded = encode(other, TRIAL)
    assert other.decode(encoded.prompt) == (
        f"<|im_start|>user\n{SYSTEM_PROMPT}\n\n{TRIAL.question}<|im_end|>\n<|im_start|>assistant\n"
    )
    lengths = [(len(encoded.prompt), len(encoded.input_ids))]
    assert token_lengths(other, [TRIAL]) == lengths


def test_a_turn_may_end_with_another_token_than_the_tokenizers(smollm2: Path) -> None:
    other = set_template(smollm2, TURNS.replace("END", "'<|im_end|>'"))
    other.eos_token = "<jupyter_start>"
    completion = encode(other, TRIAL).completion
    assert other.decode(completion) == f"{TRIAL.answer}<|im_end|>"


def test_a_template_that_reads_the_clock_writes_a_fixed_date(smollm2: Path) -> None:
    dated = "{{ strftime_now('%d %B %Y') }} " + TURNS.replace("END", "'<|im_end|>'")
    other = set_template(smollm2, dated)
    text = other.decode(encode_prompt(other, TRIAL.question))
    assert text.startswith("26 Jul 2024 <|im_start|>system\n")
