"""The preprocess stage, from raw rows to splits.

shards.py cuts the raw rows into pieces and hands them to workers; clean.py judges a row by itself; near.py finds rows that
repeat each other; contamination.py finds training rows that give items away; settle.py decides who stays; report.py counts and
writes; __main__.py is the stage.
"""
