"""Hold the modules of the ingest stage.

`__main__.py` is the stage.

- Sources: `sources.py` reads each kind of source. `user_files.py` lists a user's files, `hub.py`
  streams data sets of the hub, and `mapping.py` filters and renames the columns of rows.
- Files: `formats.py` reads a file by its suffix with `csv_files.py`, `json_files.py` or
  `parquet_files.py`. `reading.py` defines what these readers take and yield.
- Models: `models.py` checks and writes the base model and the judge. `model_downloads.py` fetches
  them, and `template.py` tries their chat templates.
- Protection: `fetch.py`, `deadlines.py` and `memory.py` limit bytes, time and memory. `remotes.py`
  keeps rows of closed sources off public remotes.
"""
