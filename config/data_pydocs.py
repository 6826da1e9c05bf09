"""Docstrings of Python and of the packages in requirements.txt: real English prose on every machine, no download.

python prepare_wiki.py config/data_pydocs.py
"""

source = "pydocs"  # ids name the Python file: numpy-2.4.6/numpy/linalg/_linalg.py#L94-...
data_dir = "data/pydocs"
min_chars = 200
vocab_size = 4096
val_fraction = 0.02
split_by = "file"  # docstrings of one file resemble each other: they stay on one side
