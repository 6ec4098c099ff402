"""Tune the adapter on preference pairs.

pairs.py reads and checks the pairs, trainer.py runs TRL's DPOTrainer, fingerprint.py finds the
checkpoints of an interrupted run, figures.py scores held-out pairs, cards.py writes the model
cards, and __main__.py is the stage.
"""
