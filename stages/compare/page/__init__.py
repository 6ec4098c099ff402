"""The page of the report: one HTML file in Portuguese and English.

content.py collects the sections, and render.py fills the templates of templates/report/ with them.
tables.py reads the Markdown of the report as plain cells, so that page and report.md show the same
figures. words.py and portuguese.py translate labels, notes.py writes the notes, charts.py draws,
graph.py lists the boxes of the pipeline, sources.py reads what went in, answers.py compares the
answers, and missing.py lists what was not measured.
"""
