"""Define the example that tries the chat template of a base model."""

from bula.records import Example

TRIAL = Example(
    id="0" * 16,
    source="trial",
    license="none",
    split="dev",
    question="Posso tomar sol?",
    answer="Sim, com protetor solar.",
)
