"""Tiny Shakespeare by characters, split as nanoGPT does: the last tenth of the text is for validation.

Put the text file where `source` says (karpathy/char-rnn, data/tinyshakespeare/input.txt, 1.1 MB), then
python prepare_wiki.py config/data_shakespeare_char.py
"""

source = "data/tinyshakespeare.txt"
data_dir = "data/shakespeare_char"
clean = False  # every character counts
tokenizer = "char"
split_by = "position"
val_fraction = 0.1
