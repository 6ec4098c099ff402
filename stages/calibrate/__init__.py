"""Measure the judge on answers that people scored.

gold.py reads the gold answers and lists the judge's questions, estimates.py computes intervals,
figures.py computes the figures, and __main__.py is the stage.
"""
