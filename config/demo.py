"""A 1.3M-parameter Llama on the docstrings of Python: two to ten minutes on a CPU.

python train.py config/demo.py
"""

data = "pydocs"
out_dir = "out/demo"

n_layer = 4
n_head = 4
n_kv_head = 2
n_embd = 128
ffn_hidden = 384
block_size = 128
qk_norm = True

batch_tokens = 12 * 128
batch_size = 12
max_iters = 2000
optimizer = "muon"
muon_lr = 0.01
learning_rate = 5e-3
warmup_iters = 100
schedule = "linear"
log_interval = 50
