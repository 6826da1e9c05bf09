"""Simple English Wikipedia, 240,000 short articles: the whole chain on a laptop in minutes; 130 MB to download once.

python prepare_wiki.py config/data_wiki_simple.py
"""

source = "wikimedia/wikipedia/20231101.simple"
data_dir = "data/wiki_simple"
min_chars = 100
drop_disambiguation = True
max_list_chars = 0.8
max_repeated_lines = 0.3
max_repeated_ngrams = 1.5  # in short articles the subject is named often
script = "LATIN"
english = True
vocab_size = 8192
