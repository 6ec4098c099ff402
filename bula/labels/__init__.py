"""Read, check and compare what people say about answers.

records.py defines the rows of a rater's file, of the key and of the labels, judgements.py joins
files with their key, and files.py reads and writes labels.
"""
