"""The compare stage, from item scores to the report.

inputs.py reads and checks the files, pairs.py computes the paired differences and their tests, and
seeds.py relates them to the spread over training seeds. header.py and conclusion.py write the first
page of the report, with the sentences of sentences.py and portuguese.py. contrast.py and safety.py
build the tables of contrast pairs and safety questions. loops.py shortens loops in
answers, report.py joins the text, summary.py chooses the figures that DVC shows, and __main__.py
is the stage.
"""
