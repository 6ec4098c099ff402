"""Compute figures from what people say about the answers.

agreement.py compares raters with each other and with themselves, answers.py combines them per
answer, judge.py compares the judge with them, preferences.py tests pairs of variants, and
__main__.py is the stage.
"""
