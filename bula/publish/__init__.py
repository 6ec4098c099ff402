"""Prepare folders for the Hugging Face hub, check them, and upload them.

- `parts.py` names the folders, their files and their repositories.
- `refusals.py` finds reasons why something must not be published.
- `sources.py` names the sources of rows.
- `results.py` selects the figures of a variant that say something.
- `model_index.py` writes them in the hub's form.
- `quick_start.py` writes the code that loads a folder.
- `citation.py` turns CITATION.cff into BibTeX.
- `cards.py` and `data_set.py` write the cards.
- `folders.py` fills the folders.
- `validation.py` runs the hub's checks that need no network.
- `upload.py` sends the folders.
"""
