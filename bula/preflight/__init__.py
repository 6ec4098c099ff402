"""Check what a run needs before it starts.

`bula/commands/preflight.py` collects the checks and prints their outcomes.

- `checks.py`: run all checks with time limits, and keep every outcome.
- `files.py`: files, models and benchmark tasks of params.yaml.
- `hosts.py`: the hub, the package index, addresses and schedulers.
- `judges.py`: one call of each server that answers or judges.
- `machine.py`: device, packages, memory and disk.
"""
