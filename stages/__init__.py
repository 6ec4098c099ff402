"""The steps of dvc.yaml, one module a stage, each run as `python -m stages.NAME`."""
