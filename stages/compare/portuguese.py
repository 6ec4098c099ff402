"""Write the sentences of the conclusion in Portuguese."""

from bula.tables.controls import ControlTexts
from stages.compare.sentences import Language

CONTROLS = ControlTexts(
    controls={
        "stock": "a resposta padrão no ROUGE-L",
        "ngram": "o 6-grama de caracteres em bits por caractere",
        "bz2": "a compressão bz2 em bits por caractere",
        "xz": "a compressão xz em bits por caractere",
    },
    sentences={
        "loops": "**{variant} não pode ser comparado com {control}**, porque {share} das suas "
        "respostas são repetições ou não têm palavras.",
        "worse": "**{variant} não supera** {control} ({value} contra {other}{difference}).",
        "unsure": "**{variant} não é comprovadamente melhor que** {control} "
        "({value} contra {other}{difference}).",
    },
    difference=", diferença {difference}",
    interval=" [{low}; {high}]",
    decimal_point=",",
)

PORTUGUESE = Language(
    title="Conclusão",
    measures={
        "degenerate": "a proporção de respostas degeneradas",
        "bits_per_character": "o número de bits por caractere das respostas de referência",
        "question_worth": "o valor da pergunta em bits por caractere",
        "bula_contrast_acc": "a proporção de pares de contraste decididos corretamente",
        "rouge1_f": "F1 do ROUGE-1",
        "rouge2_f": "F1 do ROUGE-2",
        "rougeL_f": "F1 do ROUGE-L",
        "judge_accuracy": "a nota de correção do juiz",
        "judge_style": "a nota de estilo do juiz",
        "safety_emergency": "a proporção de emergências encaminhadas ao pronto-socorro "
        "(repetição conta como falha)",
        "safety_no_dose": "a proporção de pedidos perigosos respondidos sem dose e sem repetição",
        "safety_harmful": "a proporção de pedidos nocivos recusados (repetição conta como falha)",
        "safety_harmless": "a proporção de perguntas inofensivas nem recusadas nem respondidas "
        "com repetição",
        "safety_over_refusal": "a proporção de perguntas inofensivas recusadas",
    },
    gains={
        "degenerate": "o número de respostas que são repetições",
        "bits_per_character": "a previsão das respostas de referência",
        "question_worth": "o uso que o modelo faz da pergunta",
        "bula_contrast_acc": "a escolha da resposta correta entre duas",
        "rougeL_f": "as palavras em comum com as respostas de referência",
    },
    decimal_point=",",
    points="pontos percentuais",
    unusable="**{how_many} de {variant} ({share}) são repetições ou não têm palavras: este modelo "
    "não deve ser usado.**",
    nearly_all="Quase todas as respostas",
    many="Muitas respostas",
    levels="Respostas degeneradas (repetições, ou sem palavras): {baseline} {before}, {variant} "
    "{after}.",
    missed="**Em {missed} de {count} perguntas de teste sobre uma emergência, {variant} não mandou "
    "a pessoa procurar socorro.**",
    controls=CONTROLS,
    pair="**{variant} em comparação com {baseline}.**{facts} Medidas principais: {counts}.",
    counts={
        "better": "{n} melhor",
        "worse": "{n} pior",
        "open": "{n} sem mudança comprovada",
        "none": "{n} sem significado",
    },
    improved="**O que melhorou: {found}.**",
    worsened="**O que piorou: {found}.**",
    no_gain="**Nenhuma melhora está comprovada.**",
    amount="{name} mudou de {before} para {after}, uma diferença de {change}, em {items} itens "
    "({sure})",
    verdict={
        "better": "**Melhor**: {amount}.",
        "worse": "**Pior**: {amount}.",
        "unsure": "**Sem mudança comprovada**: {amount}.{reach}",
        "seeds": "**Sem mudança comprovada**: {amount}, mas outras sementes de treino movem esta "
        "diferença em até {seed_range}.",
        "machine": "**Sem mudança comprovada**: {amount}, mas outro tipo de CPU a move em "
        "{machine}.",
        "loops": "**Sem significado**: {name}, porque mais de {limit} das respostas que ela avalia "
        "são degeneradas em uma das variantes.",
        "constant": "**Sem significado**: {name}, porque as duas variantes escolhem uma só opção "
        "em quase todos os itens.",
        "judge": "**Sem significado**: {name}, porque o juiz concorda pouco com as pessoas "
        "que deram as notas das respostas de calibração.",
    },
    reach=" Se a {direction} real fosse de {detectable} ou mais{one_way}, este teste a encontraria "
    "em pelo menos {power} das repetições.",
    directions={"any": "mudança", "fall": "queda", "rise": "alta"},
    one_way=", com todos os itens mudando na mesma direção",
    holm="p {p} após a correção de Holm, testes: {tests}",
    interval=", intervalo de {confidence} sem correção para vários testes de {low} a {high}",
    unpaired="**Não medida**: {name}, porque nenhum item recebeu nota nas duas variantes.",
    borrowed="{variant} tem o modelo de {other} e nenhuma pontuação própria nos benchmarks; por "
    "isso este par não tem medida de benchmark.",
    no_seeds="Não se conhece a variação entre sementes de treino para este par; outro treino pode "
    "dar outras diferenças.",
    exploratory="Medidas exploratórias deste par com p abaixo de {alpha}, sem correção pelo número "
    "delas; são indícios, não resultados: {found}.",
    nothing="nenhuma",
    better="{name} (melhor)",
    worse="{name} (pior)",
    unsaid="Medidas exploratórias sem significado aqui: {found}.",
)
