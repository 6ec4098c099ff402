"""Score variants on benchmark tasks with lm-eval: the benchmark stage.

`tasks.py` loads the tasks and refuses unsuitable ones, `items.py` names, draws and groups their
items, `backends.py` loads or serves the model, `scores.py` computes rows and figures, `reuse.py`
looks up the scores of equal weights, and `__main__.py` is the stage.
"""
