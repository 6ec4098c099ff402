"""Build the Markdown tables of results from the files in metrics/.

The compare stage puts them into the report, and `python -m bula results` puts the table of results
into the README.

- `figures.py` reads the metrics files.
- `cells.py` formats numbers and lines of tables.
- `measures.py`, `benchmark.py`, `judge.py` and `seeds.py` format the figures of one variant.
- `results.py` joins them to the table of results.
- `controls.py` names the controls that a variant does not beat.
- `fidelity.py` builds the table of the errors from adapter to GGUF.
- `differences.py` builds the table of the paired differences.
"""
