"""Chinese Wikipedia, 1.4 million articles, mainland and traditional characters mixed; 1.6 GB to download once.

python prepare_wiki.py config/data_wiki_zh.py
No rule that assumes spaces between words; a character counts as a word.
"""

source = "wikimedia/wikipedia/20231101.zh"
data_dir = "data/wiki_zh"
min_chars = 50
drop_disambiguation = True
max_list_chars = 0.8
max_repeated_lines = 0.3
max_repeated_ngrams = 2.0  # names of ten characters are common in short articles
script = "CJK"
vocab_size = 32768
val_fraction = 0.005
