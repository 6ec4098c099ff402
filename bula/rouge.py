"""Score answers against their references by ROUGE-1, ROUGE-2, ROUGE-L and chrF.

Words keep their Portuguese letters. The tokenizer of rouge_score keeps only a to z, so it would
split "não" into the words "n" and "o". chrF reads characters and needs no words.
"""

from bula.params import Params
from bula.records import Row
from bula.stats import bootstrap_mean, standard_error
from bula.text import words

# The name of each ROUGE type in rows and metrics, and in plots.
TYPES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
# The name of each part in rows and metrics, and in rouge_score.
PARTS = {"precision": "precision", "recall": "recall", "f": "fmeasure"}
Figures = dict[str, int | float]


class PortugueseTokenizer:
    """Words of letters and digits with accents, in the interface of rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case words of `text`."""
        return words(text)


def score_answers(rows: list[Row]) -> list[Row]:
    """Return one row of scores per answer.

    A row contains id, set, variant, precision, recall and F1 of each ROUGE type (Lin 2004), and
    chrF (Popović 2015).
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.chrf import CHRF

    scorer = RougeScorer(list(TYPES), tokenizer=PortugueseTokenizer())
    # The defaults of sacrebleu: character 6-grams, beta 2, mixed case, no spaces.
    chrf = CHRF()
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
        # sacrebleu counts in percent.
        scores["chrf"] = chrf.sentence_score(row["generated"], [row["answer"]]).score / 100
        scored.append(scores)
    return scored


def summarise(rows: list[Row], params: Params) -> Figures:
    """Return the mean of each score over the answers.

    F1 comes with a bootstrap interval, precision and recall with a standard error, and chrF with
    both.
    """
    metrics: Figures = {"items": len(rows)}
    for kind in TYPES:
        for part in PARTS:
            name = f"{kind}_{part}"
            values = [row[name] for row in rows]
            metrics[name] = sum(values) / len(values)
            if part == "f":
                metrics |= interval_of(name, values, params)
            else:
                metrics[f"{name}_stderr"] = standard_error(values)
    values = [row["chrf"] for row in rows]
    metrics["chrf"] = sum(values) / len(values)
    metrics["chrf_stderr"] = standard_error(values)
    return metrics | interval_of("chrf", values, params)


def interval_of(name: str, values: list[float], params: Params) -> Figures:
    """Return the bootstrap interval of the mean of one score."""
    settings = params.rouge
    low, high = bootstrap_mean(
        values, settings.resamples, settings.confidence, params.sampling_seed
    )
    return {f"{name}_low": low, f"{name}_high": high}
