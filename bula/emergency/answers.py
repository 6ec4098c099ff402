"""Hold the answers to emergencies, which precede any text of a model."""

from typing import Literal

Emergency = Literal["none", "samu", "cvv"]

DISCLAIMER = (
    "Aviso: este é um modelo de linguagem em teste. A resposta pode estar errada, não é "
    "diagnóstico nem receita e não substitui a consulta com profissional de saúde. Em "
    "emergência, ligue 192 (SAMU). Em crise emocional, ligue 188 (CVV)."
)
SAMU = (
    "ATENÇÃO: o que você descreve pode ser uma emergência. Ligue agora para o 192 (SAMU) ou vá ao "
    "pronto-socorro mais próximo. A ligação é gratuita e funciona 24 horas. Não espere a resposta "
    "de um modelo."
)
CVV = (
    "ATENÇÃO: se você ou alguém próximo pensa em morrer ou em se machucar, ligue agora para o 188 "
    "(CVV). A ligação é gratuita, sigilosa e funciona 24 horas. Se houver perigo imediato ou a "
    "pessoa já tiver se ferido ou tomado algo, ligue 192 (SAMU) e não a deixe sozinha. O modelo "
    "não responde a esta pergunta: fale com uma pessoa."
)
ANSWERS: dict[Emergency, str] = {"none": "", "samu": SAMU, "cvv": CVV}
