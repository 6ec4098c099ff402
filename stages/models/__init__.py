"""Download, check and write the base model and the judge.

`__main__.py` is the stage.

- `base.py`, `judge.py` and `encoder.py` check and write the models, and `downloads.py` finds or
  downloads them.
- `own_template.py` gives a base model a chat template of `templates/`, and `template.py` tries a
  model's chat template.
"""
