"""Name the kinds of people who judge, and of their labels."""

from typing import Literal

Raters = Literal["author", "clinician"]
LabelKind = Literal["author_labels", "clinician_labels"]
