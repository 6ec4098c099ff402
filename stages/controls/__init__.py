"""The controls stage: figures that a tuned model must beat.

answers.py chooses answers without a model, ngram.py counts a character model, compressors.py
measures gzip, bz2 and xz, and __main__.py is the stage.
"""
