"""Questions and answers about Python, made of the same docstrings as config/data_pydocs.py, for the demo's model.

python prepare_chat.py config/chat_pydocs.py        (after: python prepare_wiki.py config/data_pydocs.py)
"""

source = "pydocs"
tokenizer = "data/pydocs"  # has reserved the special tokens of ChatML
data_dir = "data/chat_pydocs"
max_tokens = 128  # the demo's context
val_fraction = 0.02
split_by = "file"  # with the same val_fraction these are the files that the demo's model was not trained on
