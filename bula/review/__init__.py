"""Compare a run with the run of an earlier commit.

- `runs.py` reads the files of one run.
- `measures.py` names the figures, and reads the committed ones with what makes them doubtful.
- `items.py` matches the items of both runs by id and content.
- `verdicts.py` compares each figure and says whether it is better or worse.
- `gate.py` decides whether the run passes.
- `changes.py` lists changed parameters and counts.
- `answers.py` finds the answers that changed most.
- `report.py` writes Markdown and JSON.
"""
