"""Compare a run with the run of an earlier commit.

- `runs.py` reads the files of one run.
- `measures.py` names the figures, and reads the committed ones with what makes them doubtful.
- `items.py` matches the items of both runs by id and content.
- `verdicts.py` compares each figure and says whether it is better or worse.
- `gate.py` decides whether the run passes.
- `gate_names.py` finds gates on a figure that no run has.
- `changes.py` lists changed parameters and counts.
- `answers.py` finds the answers that changed most.
- `report.py` defines what a review contains.
- `report_json.py` writes it as a JSON object.
- `report_markdown.py` writes it as Markdown.
- `opening.py` and `sections.py` write the first lines and the tables of the Markdown.
- `cells.py` formats names, numbers and texts.
"""
