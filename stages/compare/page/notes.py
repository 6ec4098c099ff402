"""Write the notes of the page in both languages."""

from pathlib import Path

from bula.params import Params
from bula.stats import MIN_BOOTSTRAP, POWER
from bula.tables.figures import degenerate_share, read_figures
from stages.compare.page.words import Both
from stages.compare.pairs import Results
from stages.compare.seeds import CPU_ROUGE_L

ARROWS = Both("↓: lower is better; ↑: higher is better.", "↓: menor é melhor; ↑: maior é melhor.")
RULES = Both(
    "Written rules read the words of an answer and know nothing of medicine: a pass means that the "
    "words were found, not that an answer is safe. An answer that repeats itself passes nowhere: "
    "it fails an emergency and a harmful request, and it says nothing about doses and refusals, so "
    "these shares are withheld where such answers are frequent.",
    "Regras escritas leem as palavras da resposta e nada sabem de medicina: a aprovação significa "
    "que as palavras foram achadas, não que a resposta é segura. Uma resposta que se repete nunca "
    "é aprovada: ela falha em emergências e pedidos nocivos, e nada diz sobre doses e recusas; por "
    "isso essas proporções são omitidas onde há muitas respostas assim.",
)
CONTRAST = Both(
    "The two answers of a pair differ in one clinical fact, and guessing is right in 50 % of them. "
    "acc compares the probabilities of the answers, and acc_norm divides them by the length.",
    "As duas respostas de um par diferem em um fato clínico, e chutar acerta 50 % delas. "
    "acc compara as probabilidades das respostas, e acc_norm as divide pelo comprimento.",
)
FIDELITY = Both(
    "Each row compares two models at each word piece of the validation answers. It shows what "
    "merging, saving and compressing change. " + ARROWS.en,
    "Cada linha compara dois modelos em cada pedaço de palavra das respostas de validação. Ela "
    "mostra o que fundir, salvar e compactar mudam. " + ARROWS.pt,
)
PEOPLE = {
    "author": Both(
        "the author, who is no clinician", "pelo autor, que não é profissional de saúde"
    ),
    "clinician": Both("clinicians", "por profissionais de saúde"),
}


def results_note(params: Params) -> Both:
    """Return the meaning of the signs in the table of results."""
    coverage = f"{params.rouge.confidence * 100:g}"
    return Both(
        f"± is a standard error, [ ] a {coverage} % bootstrap interval over answers. {ARROWS.en} "
        "The last six columns are controls: simple rivals that a useful model must beat.",
        f"± é um erro padrão, [ ] um intervalo bootstrap de {coverage} % sobre as respostas. "
        f"{ARROWS.pt} As seis últimas colunas são controles: rivais simples que um modelo útil "
        "precisa superar.",
    )


def withheld_note(figures: Path, params: Params) -> Both | None:
    """Return the variants whose scores of answers mean nothing, or None."""
    limit = params.compare.max_degenerate_share
    shares = {name: degenerate_share(figures, name) for name in params.variants}
    named = [f"{name} ({share * 100:.0f} %)" for name, share in shares.items() if share > limit]
    if not named:
        return None
    listed = ", ".join(named)
    return Both(
        "ROUGE, chrF, BERTScore and the judge's scores mean nothing for variants with more than "
        f"{limit * 100:g} % degenerate answers: {listed}. The tables withhold these figures.",
        "ROUGE, chrF, BERTScore e as notas do juiz nada significam para as variantes com mais de "
        f"{limit * 100:g} % de respostas degeneradas: {listed}. As tabelas omitem esses números.",
    )


def differences_note(params: Params) -> Both:
    """Return the meaning of the differences, their intervals and p-values."""
    coverage = f"{params.compare.confidence * 100:g}"
    power = f"{POWER * 100:g}"
    return Both(
        "Each difference compares the same items under both variants. p of the primary measures is "
        "corrected by Holm's method; the other measures are exploratory. Each interval covers "
        f"{coverage} % for its own comparison only, and there is none below {MIN_BOOTSTRAP} "
        "groups. If the true difference were the smallest detectable one or more, the test would "
        f"find it in at least {power} % of repetitions. {ARROWS.en}",
        "Cada diferença compara os mesmos itens nas duas variantes. O p das medidas principais é "
        "corrigido pelo método de Holm; as outras medidas são exploratórias. Cada intervalo cobre "
        f"{coverage} % só para a sua comparação, e não há intervalo com menos de {MIN_BOOTSTRAP} "
        "grupos. Se a diferença real fosse a menor detectável ou mais, o teste a encontraria em "
        f"pelo menos {power} % das repetições. {ARROWS.pt}",
    )


def seeds_note(results: Results) -> Both:
    """Return whether the spread over training seeds is known."""
    machine = f"{CPU_ROUGE_L:g}"
    other = Both(
        f"On another kind of CPU the ROUGE-L of the base moved by {machine}.",
        f"Em outro tipo de CPU, o ROUGE-L da base mudou {machine.replace('.', ',')}.",
    )
    if any("seeds" in row for row in results.values()):
        return Both(
            "“within” marks differences that other training seeds can explain. " + other.en,
            "“dentro da variação” marca diferenças que outras sementes de treino podem explicar. "
            + other.pt,
        )
    return Both(
        "How much the training seed alone moves these differences was not measured. " + other.en,
        "Não se mediu quanto a semente do treino, sozinha, muda estas diferenças. " + other.pt,
    )


def judge_note(figures: Path, params: Params) -> Both:
    """Return who labelled the gold answers, and when the judge's scores are withheld."""
    found = read_figures(figures / "calibrate.json", "calibrate")
    people = PEOPLE[str(found.get("labelled_by", "author"))]
    limit = f"{params.judge.min_kappa:g}"
    comma = limit.replace(".", ",")
    return Both(
        "The judge is a language model. It rated gold answers that were also scored by "
        f"{people.en}. Kappa measures their agreement: 1 is complete, 0 is chance. The page "
        f"withholds the judge's scores if the lower end of kappa's interval is below {limit}.",
        "O juiz é um modelo de linguagem. Ele deu notas a respostas de calibração avaliadas também "
        f"{people.pt}. O kappa mede a concordância: 1 é total, 0 é acaso. A página omite as notas "
        f"do juiz se o limite inferior do intervalo do kappa for menor que {comma}.",
    )
