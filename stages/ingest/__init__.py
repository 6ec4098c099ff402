"""Download and read question-answer pairs and benchmark items.

`__main__.py` is the stage.

- Sources: `sources.py` reads each kind of source. `user_files.py` lists a user's files, `hub.py`
  streams data sets of the hub, and `mapping.py` filters and renames the columns of rows.
- Rows: `cells.py` reads single cells, `conversations.py` reads messages, `survey.py` finds columns
  that nothing reads, and `advice.py` proposes the `columns` to write.
- Files: `formats.py` reads a file by its suffix and content with `csv_files.py`, `json_files.py`,
  `parquet_files.py` or `excel_files.py`. `opening.py` unpacks, `encodings.py` checks the encoding,
  and `headers.py` finds the columns. `reading.py` defines what these readers take and yield.
- The command `bula look`: `look.py` describes a file, and `proposals.py` proposes its entry.
- Protection: `fetch.py`, `deadlines.py` and `memory.py` limit bytes, time and memory. `remotes.py`
  keeps rows of closed sources off public remotes.
"""
