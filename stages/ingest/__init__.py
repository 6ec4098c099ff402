"""The ingest stage: models.py brings in models, files.py reads tables of any form, sources.py maps rows, __main__.py is the stage."""
