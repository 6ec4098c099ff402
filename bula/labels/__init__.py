"""Read, check and combine what people say about answers.

raters.py names the kinds of people. records.py defines the rows of a rater's file, of the key and
of the labels. judgements.py joins files with their key, files.py reads and writes labels, votes.py
combines raters, and preference_pairs.py exports training pairs.
"""
