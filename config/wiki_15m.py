"""Simple English Wikipedia, 15M parameters: one small GPU in an evening, or a laptop overnight.

python prepare_wiki.py config/data_wiki_simple.py
python train.py config/wiki_15m.py
python train.py config/wiki_15m.py --batch_size=8 --max_iters=1200        a laptop: CPU or MPS, a quarter of the tokens

What to expect. Not measured: estimates from 6 FLOPs for each parameter and token, and attention's, 102 MFLOPs a token.
4,600 steps of 65,536 tokens are 300M tokens, 20 for each parameter: about five epochs. That is 3.1e16 FLOPs: 50 minutes
at 10 TFLOP/s, what a small GPU may reach in bfloat16. The laptop's 79M tokens are 8.0e15 FLOPs: 7 hours at
0.3 TFLOP/s, what a CPU of 8 cores may reach in float32. Memory of a step in bfloat16: 2.4 GB, with
batch_size=8 0.8 GB (computed: docs/pretraining.md).
"""

data = "wiki_simple"
out_dir = "out/wiki_15m"

n_layer = 6
n_head = 6
n_kv_head = 3
n_embd = 384
ffn_hidden = 1280
block_size = 512

batch_tokens = 128 * 512
batch_size = 32
max_iters = 4600
learning_rate = 2e-3
warmup_iters = 200
schedule = "linear"
eval_interval = 200
checkpoint_interval = 200
checkpoint_minutes = 15
sample_prompt = "The Moon is"
