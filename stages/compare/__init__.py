"""The compare stage, from item scores to the report.

inputs.py reads and checks the files, pairs.py computes the paired differences and their tests,
report.py writes the text, and __main__.py is the stage.
"""
