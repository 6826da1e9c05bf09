"""Tiny Shakespeare by characters, at the size and number of steps of nanoGPT's README for a CPU.

python prepare_wiki.py config/data_shakespeare_char.py
python train.py config/shakespeare_char.py
"""

data = "shakespeare_char"
out_dir = "out/shakespeare_char"

n_layer = 4
n_head = 4
n_kv_head = 2
n_embd = 128
ffn_hidden = 384
block_size = 64
qk_norm = True

batch_tokens = 12 * 64
batch_size = 12
max_iters = 2000
optimizer = "muon"
muon_lr = 0.01
muon_even_rows = True
learning_rate = 3e-3
warmup_iters = 100
beta2 = 0.99
schedule = "linear"
sample_prompt = "ROMEO:\n"
