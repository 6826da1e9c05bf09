"""English Wikipedia, 6.4 million articles, 20 GB of text: clean parquet from the hub, 11 GB to download once.

python prepare_wiki.py config/data_wiki_en.py
A dump instead: --source='enwiki-20240101-pages-articles-multistream*.xml.bz2'
"""

source = "wikimedia/wikipedia/20231101.en"
data_dir = "data/wiki_en"
min_chars = 200
drop_disambiguation = True
max_list_chars = 0.8
max_repeated_lines = 0.3
max_repeated_ngrams = 1.0
script = "LATIN"
english = True
tokenizer = "bpe"
vocab_size = 32768
val_fraction = 0.002
