"""Try training and export on a small cut of the base model.

`__main__.py` is the stage.

- `trial.py` defines what all steps share, and `cut.py` builds the cut.
- Each other module contains the steps of one topic: `template.py`, `training.py`, `export.py`
  (merge and GGUF files) and `llama_cpp.py` (answers).
"""
