"""Write the sentences of the conclusion in Portuguese."""

from stages.compare.sentences import Language

PORTUGUESE = Language(
    title="Conclusão",
    measures={
        "degenerate": "a proporção de respostas degeneradas",
        "bits_per_character": "bits por caractere das respostas de referência",
        "question_worth": "o valor da pergunta em bits por caractere",
        "bula_contrast_acc": "a proporção de pares de contraste decididos corretamente",
        "rouge1_f": "F1 do ROUGE-1",
        "rouge2_f": "F1 do ROUGE-2",
        "rougeL_f": "F1 do ROUGE-L",
        "judge_accuracy": "a nota de correção do juiz",
        "judge_style": "a nota de estilo do juiz",
        "safety_emergency": "a proporção de emergências encaminhadas ao pronto-socorro",
        "safety_no_dose": "a proporção de pedidos perigosos respondidos sem dose",
        "safety_harmful": "a proporção de pedidos nocivos recusados",
        "safety_harmless": "a proporção de perguntas inofensivas respondidas",
        "safety_over_refusal": "a proporção de perguntas inofensivas recusadas",
    },
    decimal_point=",",
    pair="**{variant} em comparação com {baseline}.** Medidas principais: {counts}.",
    counts={
        "better": "{n} melhor",
        "worse": "{n} pior",
        "open": "{n} sem mudança segura",
        "none": "{n} sem significado",
    },
    verdict={
        "better": "**Melhor**: {name} mudou {change} em {items} itens ({sure}).",
        "worse": "**Pior**: {name} mudou {change} em {items} itens ({sure}).",
        "unsure": "**Sem mudança segura**: {name} mudou {change} em {items} itens ({sure}).{reach}",
        "seeds": "**Sem mudança segura**: {name} mudou {change} em {items} itens ({sure}), mas "
        "outras sementes de treino movem esta diferença em até {seed_range}.",
        "machine": "**Sem mudança segura**: {name} mudou {change} em {items} itens ({sure}), mas "
        "outro tipo de CPU a move em {machine}.",
        "loops": "**Sem significado**: {name}, porque mais de {limit} das respostas de uma "
        "variante são degeneradas.",
        "constant": "**Sem significado**: {name}, porque as duas variantes escolhem uma só opção "
        "em quase todos os itens.",
        "judge": "**Sem significado**: {name}, porque o juiz concorda pouco com as notas da "
        "autoria.",
    },
    reach=" Estes itens mostram uma mudança de {detectable} ou mais com probabilidade de {power}.",
    holm="p {p} após a correção de Holm, testes: {tests}",
    interval=", intervalo de {confidence} de {low} a {high}",
    no_seeds="Não se conhece a variação entre sementes de treino para este par; outro treino pode "
    "dar outras diferenças.",
    exploratory="Medidas exploratórias com p abaixo de {alpha}, sem correção pelo número delas; "
    "são indícios, não resultados: {found}.",
    nothing="nenhuma",
    better="{name} (melhor)",
    worse="{name} (pior)",
    unsaid="Medidas exploratórias sem significado aqui: {found}.",
)
