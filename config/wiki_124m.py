"""English Wikipedia, 124M parameters, the size of GPT-2's smallest: 8 GPUs.

python prepare_wiki.py config/data_wiki_en.py
torchrun --standalone --nproc_per_node=8 train.py config/wiki_124m.py
python train.py config/wiki_124m.py --batch_size=16                       one card of 24 GB, bfloat16
python train.py config/wiki_124m.py --batch_size=8                        one card of 12 GB, bfloat16
python train.py config/wiki_124m.py --batch_size=8                        cards with fp16 only (T4, V100), 16 GB

Cards that have fp16 and no bfloat16 compute in float16, with a factor on the loss (docs/training.md); not tried.

What to expect. Not measured: estimates from 6 FLOPs for each parameter and token, and attention's, 855 MFLOPs a token.
19,000 steps of 524,288 tokens are 10.0B tokens, about two epochs: 8.5e18 FLOPs. At 40 % of the data sheet's bfloat16:
2.4 hours on eight A100, 45 minutes on eight H100, 36 hours on one RTX 4090, 83 on one RTX 3090; a card that reaches
10 TFLOP/s needs ten days. The steps are the same on all of them. Memory of a step: docs/pretraining.md.
"""

data = "wiki_en"
out_dir = "out/wiki_124m"

n_layer = 12
n_head = 12
n_kv_head = 4
n_embd = 768
ffn_hidden = 2880
block_size = 1024

batch_tokens = 512 * 1024
batch_size = 32
max_iters = 19000
learning_rate = 1e-3
warmup_iters = 700
schedule = "linear"
eval_interval = 500
checkpoint_interval = 500
checkpoint_minutes = 15
sample_prompt = "The Moon is"
