"""Score answers against their references by ROUGE-1, ROUGE-2 and ROUGE-L.

Words keep their Portuguese letters. The tokenizer of rouge_score keeps only a to z, so it would
split "não" into the words "n" and "o".
"""

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from bula.params import Params
from bula.records import Row
from bula.stats import bootstrap_mean, standard_error
from bula.text import words

# The name of each ROUGE type in rows and metrics, and in plots.
TYPES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
# The name of each part in rows and metrics, and in rouge_score.
PARTS = {"precision": "precision", "recall": "recall", "f": "fmeasure"}
Figures = dict[str, int | float]


class PortugueseTokenizer(Tokenizer):  # type: ignore[misc]
    """Words of letters and digits with accents, in the interface of rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case words of `text`."""
        return words(text)


def score_answers(rows: list[Row]) -> list[Row]:
    """Return one row of scores per answer.

    A row contains id, set, variant, and precision, recall and F1 of each ROUGE type (Lin 2004).
    """
    scorer = RougeScorer(list(TYPES), tokenizer=PortugueseTokenizer())
    scored = []
    for row in rows:
        result = scorer.score(row["answer"], row["generated"])
        scores: Row = {
            "id": row["id"],
            "split": row["split"],
            "variant": row["variant"],
        }
        for kind in TYPES:
            for part, attribute in PARTS.items():
                value = getattr(result[kind], attribute)
                scores[f"{kind}_{part}"] = float(value)
        scored.append(scores)
    return scored


def summarise(rows: list[Row], params: Params) -> Figures:
    """Return the mean of each score over the answers.

    F1 comes with a bootstrap interval, precision and recall with a standard error.
    """
    settings = params.rouge
    metrics: Figures = {"items": len(rows)}
    for kind in TYPES:
        for part in PARTS:
            name = f"{kind}_{part}"
            values = [row[name] for row in rows]
            metrics[name] = sum(values) / len(values)
            if part == "f":
                low, high = bootstrap_mean(
                    values,
                    settings.resamples,
                    settings.confidence,
                    params.sampling_seed,
                )
                metrics[f"{name}_low"] = low
                metrics[f"{name}_high"] = high
            else:
                metrics[f"{name}_stderr"] = standard_error(values)
    return metrics
