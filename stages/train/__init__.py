"""Fine-tune a LoRA adapter: the train stage.

`__main__.py` starts the launcher, `fit.py` is the program that the launcher starts, `trainer.py`
trains, `callbacks.py` acts between steps, `fingerprint.py` finds the checkpoints of an interrupted
run, and `report.py` writes the adapter and the figures.
"""
