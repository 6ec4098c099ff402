"""The train stage: trainer.py trains, checkpoints.py keeps what a kill must not cost, report.py says what came of it, __main__.py is
the stage."""
