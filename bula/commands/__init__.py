"""Define the commands of `python -m bula`, one module each."""
