"""The preprocess stage, from raw rows to splits.

Each row is cleaned by itself: clean.py is the order of the steps, and escapes.py,
encoding.py, html.py, bula/language.py, splits.py, tokens.py and long_rows.py are the steps.
shards.py cuts the raw files and hands the shards to workers, and parts.py turns a shard into a part
of the work folder.

All rows are then compared through table.py: minhash.py and near_duplicates.py find repetitions,
benchmarks.py and contamination.py find items in train, and deduplicate.py decides which rows stay.
report.py and card.py write the result, and __main__.py is the stage.
"""
