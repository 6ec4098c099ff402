"""Check the header and the sentences of the report's conclusion."""

from pathlib import Path

import pytest

from bench.clones import ROOT, commit, git
from bula.paired import Difference
from bula.params import Params, load_params
from bula.reports import write_metrics
from bula.tables.controls import PREDICTORS, Unbeaten
from stages.compare.conclusion import Facts, conclusion, verdict
from stages.compare.header import base_name, header
from stages.compare.pairs import Results
from stages.compare.portuguese import PORTUGUESE
from stages.compare.sentences import ENGLISH

ROW: Difference = {
    "items": 30,
    "groups": 30,
    "binary": False,
    "before": 0.2,
    "after": 0.25,
    "difference": 0.05,
    "stderr": 0.01,
    "detectable": 0.0280159,
    "low": 0.031,
    "high": 0.069,
    "p": 0.0004,
    "p_at_floor": False,
    "p_holm": 0.0012,
    "primary": True,
    "constant_answers": False,
    "judge_withheld": False,
    "meaningful": True,
}
SEEDS: Difference = {"seeds": 3, "seed_range": 0.06, "within_seed_range": True}
EXPLORATORY: Difference = {**ROW, "primary": False}


@pytest.fixture(scope="module")
def params() -> Params:
    """Return the default parameters."""
    return load_params(ROOT / "profiles/smollm2-135m.yaml")


@pytest.mark.parametrize(
    ("measure", "changes", "expected"),
    [
        ("rougeL_f", {}, "better"),
        ("rougeL_f", {"difference": -0.05}, "worse"),
        # Lower is better for these two.
        ("bits_per_character", {}, "worse"),
        ("degenerate", {"difference": -0.5}, "better"),
        ("rougeL_f", {"p_holm": 0.05}, "unsure"),
        ("rougeL_f", {"p_holm": 0.0499}, "better"),
        ("rougeL_f", SEEDS, "seeds"),
        ("rougeL_f", SEEDS | {"within_seed_range": False}, "better"),
        # Another kind of CPU moved ROUGE-L by 0.012.
        ("rougeL_f", {"difference": 0.012}, "machine"),
        ("rougeL_f", {"difference": 0.0121}, "better"),
        ("bits_per_character", {"difference": -0.001}, "better"),
        ("rougeL_f", {"meaningful": False}, "loops"),
        ("t_acc", {"meaningful": False, "constant_answers": True}, "constant"),
        ("judge_style", {"meaningful": False, "judge_withheld": True}, "judge"),
        # Lower is better.
        ("safety_over_refusal", {}, "worse"),
        ("safety_emergency", {}, "better"),
    ],
)
def test_verdict_needs_a_small_p_and_more_than_random_variation(
    measure: str, changes: Difference, expected: str
) -> None:
    assert verdict(measure, ROW | changes) == expected


FACTS = Facts({"base": 0.1, "tuned": 0.2, "quantized": 0.0}, {"tuned": [], "quantized": []}, {})


def written(params: Params, facts: Facts = FACTS, **rows: Difference) -> str:
    """Return the conclusion about tuned and base."""
    results: Results = {f"tuned_minus_base__{name}": row for name, row in rows.items()}
    compare = params.compare.model_copy(update={"pairs": params.compare.pairs[:1]})
    return conclusion(results, facts, params.model_copy(update={"compare": compare}))


def test_improvement_is_stated_with_levels_amount_and_certainty(params: Params) -> None:
    bits = ROW | {"before": 2.4553, "after": 2.0613, "difference": -0.394, "p_at_floor": True}
    text = written(params, bits_per_character=bits)
    assert (
        "- **Better**: bits per character of the reference answers changed from 2.455 to 2.061, by "
        "-0.394, on 30 items (p ≤ 0.0012 after Holm's correction, tests: 1, 95 % interval without "
        "correction for several tests +0.031 to +0.069)."
    ) in text
    assert (
        "- **Melhor**: o número de bits por caractere das respostas de referência mudou de 2,455 "
        "para 2,061, uma diferença de -0,394, em 30 itens (p ≤ 0,0012 após a correção de Holm, "
        "testes: 1, intervalo de 95 % sem correção para vários testes de +0,031 a +0,069)."
    ) in text


def test_unsure_change_is_stated_with_the_detectable_effect(params: Params) -> None:
    text = written(params, rougeL_f=ROW | {"p_holm": 0.3})
    assert "- **No sure change**: ROUGE-L F1 changed from 0.200 to 0.250, by +0.05, on 30" in text
    assert (
        "If the true change were 0.028 or more, this test would find it in at least 80 % of "
        "repetitions."
    ) in text
    assert (
        "Se a mudança real fosse de 0,028 ou mais, este teste a encontraria em pelo menos 80 % das "
        "repetições."
    ) in text


def test_shares_of_items_are_stated_in_percent(params: Params) -> None:
    share = {"binary": True, "before": 28 / 30, "after": 29 / 30, "difference": 1 / 30}
    found = {"p_holm": 1.0, "detectable": 0.2537, "low": -1 / 15, "high": 2 / 15}
    text = written(params, degenerate=ROW | share | found)
    assert (
        "the share of degenerate answers changed from 93.3 % to 96.7 %, by +3.3 percentage points, "
        "on 30 items"
    ) in text
    assert "several tests -6.7 percentage points to +13.3 percentage points)." in text
    assert (
        "If the true fall were 25.4 percentage points or more, with all items changing in one "
        "direction, this test"
    ) in text
    assert "mudou de 93,3 % para 96,7 %, uma diferença de +3,3 pontos percentuais, em 30" in text
    assert "queda real fosse de 25,4 pontos percentuais ou mais, com todos os itens mudando" in text


def test_counts_open_the_paragraph_of_each_pair(params: Params) -> None:
    text = written(
        params,
        bits_per_character=ROW,
        degenerate=ROW | {"difference": -0.5},
        rougeL_f=ROW | {"meaningful": False},
    )
    # A share of 0.2 does not exceed `compare.max_degenerate_share`.
    assert (
        "**tuned against base.** Degenerate answers (repetitions, or no words): base 10.0 %, tuned "
        "20.0 %. **What improved: the number of answers that are repetitions.** **What got worse: "
        "the prediction of the reference answers.** Primary measures: 1 better, 1 worse, "
        "0 without a sure change, 1 not meaningful."
    ) in text
    assert (
        "**tuned em comparação com base.** Respostas degeneradas (repetições, ou sem palavras): "
        "base 10,0 %, tuned 20,0 %. **O que melhorou: o número de respostas que são repetições.** "
        "**O que piorou: a previsão das respostas de referência.** Medidas principais: 1 melhor, "
        "1 pior, 0 sem mudança comprovada, 1 sem significado."
    ) in text
    assert (
        "- **Not meaningful**: ROUGE-L F1, because more than 20 % of the answers that it rates are "
        "degenerate under one variant."
    ) in text


def test_a_model_of_loops_must_not_be_used(params: Params) -> None:
    facts = Facts({"base": 0.25, "tuned": 29 / 30}, {"tuned": []}, {})
    text = written(params, facts)
    assert (
        "**tuned against base.** **Nearly all answers of tuned (96.7 %) are repetitions or have "
        "no words: this model must not be used.** **Many answers of base (25.0 %) are repetitions "
        "or have no words: this model must not be used.** **No improvement is sure.** Primary"
    ) in text
    assert (
        "**tuned em comparação com base.** **Quase todas as respostas de tuned (96,7 %) são "
        "repetições ou não têm palavras: este modelo não deve ser usado.** **Muitas "
        "respostas de base (25,0 %)"
    ) in text


def test_missed_emergencies_are_said_before_any_measure(params: Params) -> None:
    text = written(params, FACTS._replace(missed={"tuned": (8, 10), "quantized": (0, 10)}))
    assert (
        "**In 8 of 10 test questions about an emergency, tuned did not send the person to "
        "emergency care.**"
    ) in text
    assert (
        "**Em 8 de 10 perguntas de teste sobre uma emergência, tuned não mandou a pessoa procurar "
        "socorro.**"
    ) in text
    assert "quantized did not send" not in text


def test_controls_that_are_not_beaten_open_the_paragraph(params: Params) -> None:
    row = {"difference": 0.0123, "low": -0.001, "high": 0.0256}
    unbeaten = [
        Unbeaten("loops", "stock", 0.1, 0.149, {}, 0.967),
        Unbeaten("worse", "bz2", 2.061, 1.989, {}, 0.967),
        Unbeaten("unsure", "ngram", 2.061, 2.0487, row, 0.967),
    ]
    text = written(params, FACTS._replace(unbeaten={"tuned": unbeaten}))
    assert (
        "tuned 20.0 %. **tuned cannot be compared with the stock answer on ROUGE-L**, because 97 % "
        "of its answers are repetitions or have no words. **tuned does not beat** bz2 compression "
        "in bits per character (2.061 against 1.989). **tuned is not surely better than** the "
        "character 6-gram in bits per character (2.061 against 2.049, "
        "difference +0.012 [-0.001, +0.026]). **No improvement"
    ) in text
    assert (
        "tuned 20,0 %. **tuned não pode ser comparado com a resposta padrão no ROUGE-L**, porque "
        "97 % das suas respostas são repetições ou não têm palavras. **tuned não supera** a "
        "compressão bz2 em bits por caractere (2,061 contra 1,989). **tuned não é "
        f"comprovadamente melhor que** {PORTUGUESE.controls.controls['ngram']} (2,061 contra "
        "2,049, diferença +0,012 [-0,001; +0,026])."
    ) in text


def test_each_control_has_a_name_in_both_languages() -> None:
    for language in (ENGLISH, PORTUGUESE):
        assert set(language.controls.controls) == {"stock", *PREDICTORS}


def test_withheld_judge_is_named(params: Params) -> None:
    text = written(params, judge_style=ROW | {"meaningful": False, "judge_withheld": True})
    # Authors or clinicians may have scored the gold answers; the table of the judges says who did.
    assert (
        "because the judge agrees too little with the people who scored the gold answers." in text
    )
    assert "concorda pouco com as pessoas que deram as notas das respostas de calibração." in text


def test_seed_and_machine_variation_are_named_with_their_size(params: Params) -> None:
    text = written(params, bits_per_character=ROW | SEEDS)
    assert "but other training seeds move this difference by up to 0.06." in text
    assert "spread over training seeds is not known" not in text
    text = written(params, rougeL_f=ROW | {"difference": 0.01})
    assert "but another kind of CPU moves it by 0.012." in text
    assert "spread over training seeds is not known" in text


def test_exploratory_measures_are_hints(params: Params) -> None:
    text = written(
        params,
        rougeL_f=ROW,
        rouge1_f=EXPLORATORY,
        t_acc=EXPLORATORY | {"difference": -0.1},
        u_acc=EXPLORATORY | {"p": 0.05},
        judge_style=EXPLORATORY | {"meaningful": False},
    )
    assert "are hints and no results: ROUGE-1 F1 (better), t_acc (worse).\n" in text
    assert "Exploratory measures that are not meaningful here: the judge's score of style." in text
    assert "indícios, não resultados: F1 do ROUGE-1 (melhor), t_acc (pior).\n" in text


def test_primary_measure_without_pairs_is_named(params: Params) -> None:
    changes = {"primary": ["rougeL_f", "judge_accuracy"]}
    judged = params.model_copy(update={"compare": params.compare.model_copy(update=changes)})
    text = written(judged, rougeL_f=ROW)
    assert (
        "- **Not measured**: the judge's score of accuracy, because no item was scored under both "
        "variants.\n"
    ) in text
    assert (
        "- **Não medida**: a nota de correção do juiz, porque nenhum item recebeu nota nas duas "
    ) in text
    assert "Not measured" not in written(judged, rougeL_f=ROW, judge_accuracy=ROW)


def test_variant_without_benchmark_scores_of_its_own_is_named(params: Params) -> None:
    assert "benchmark" not in written(params, rougeL_f=ROW)
    prompted = params.variants["base"].model_copy(update={"few_shot": 3})
    shared = params.model_copy(update={"variants": params.variants | {"tuned": prompted}})
    text = written(shared, rougeL_f=ROW)
    assert (
        "- tuned has the model of base and no benchmark scores of its own, so this pair has no "
        "benchmark measure.\n"
    ) in text
    assert (
        "- tuned tem o modelo de base e nenhuma pontuação própria nos benchmarks; por isso este "
        "par não tem medida de benchmark.\n"
    ) in text


def test_pairs_follow_params(params: Params) -> None:
    text = conclusion({}, FACTS, params)
    order = [text.index("**tuned against base.**"), text.index("**quantized against tuned.**")]
    assert order == sorted(order)


# Header


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """Return a folder with the metrics of a training run."""
    run: dict[str, float | str] = {"steps": 30, "epochs": 0.280374, "compute_dtype": "bfloat16"}
    write_metrics(tmp_path / "metrics/train.json", {"run": run})
    write_metrics(tmp_path / "metrics/template.json", {"rows": 430})
    return tmp_path / "metrics"


def test_header_names_base_training_and_machine(
    figures: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = figures.parent
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    expected = [
        "- base model: HuggingFaceTB/SmolLM2-135M-Instruct (license apache-2.0)",
        "- training: 430 rows, 30 steps (0.28 epochs), seed 20261122",
        "- machine: device cpu, training computed in bfloat16",
        "- variant base: models/base, answers by transformers",
        "- variant tuned: models/merged, answers by transformers",
        "- variant quantized: models/gguf/q4_k_m\\.gguf, answers by llama.cpp",
    ]
    assert header(figures, params).splitlines() == expected
    git(folder, "init", "--quiet")
    commit(folder, "start")
    first = git(folder, "rev-parse", "HEAD").strip()[:12]
    line = f"- commit: `{first}`, the last one before this run"
    assert header(figures, params).splitlines() == [line, *expected]


@pytest.mark.parametrize("profile", ["llama-3.2-1b", "gemma-3-270m", "smollm2-135m"])
def test_base_of_each_profile_has_a_name(profile: str) -> None:
    assert "/" in base_name(load_params(ROOT / f"profiles/{profile}.yaml"))


def test_base_from_a_folder_is_named_without_its_path(workspace: Path) -> None:
    assert base_name(load_params(workspace / "params.yaml")) == "tiny"
