"""English Wikipedia, 1B parameters, the blocks of Llama 3.2 1B and 32,768 tokens: FSDP2 over 8 GPUs of 80 GB.

python prepare_wiki.py config/data_wiki_en.py
torchrun --standalone --nproc_per_node=8 train.py config/wiki_1b_fsdp.py

What to expect. Not measured on a GPU (FSDP2 was tested with processes of a CPU, docs/checkpoints.md). Estimates from
6 FLOPs for each parameter and token, and attention's: 7.1 GFLOPs a token. 17,500 steps of 1,048,576 tokens are 18.4B
tokens, about four epochs of Wikipedia, and 18 for each parameter: 1.3e20 FLOPs. At 40 % of the data sheet's bfloat16:
36 hours on eight A100, 11 on eight H100. More epochs teach little (Muennighoff et al. 2023, arXiv 2305.16264): for more
tokens mix another corpus in, --data=wiki_en:0.3,web:0.7. Memory of a step and process: docs/pretraining.md.
"""

data = "wiki_en"
out_dir = "out/wiki_1b"

n_layer = 16
n_head = 32
n_kv_head = 8
n_embd = 2048
ffn_hidden = 8192
block_size = 2048
rope_theta = 500000.0

parallel = "fsdp"

batch_tokens = 512 * 2048
batch_size = 8
max_iters = 17500
learning_rate = 4e-4
warmup_iters = 1000
schedule = "linear"
eval_interval = 500
checkpoint_interval = 500
checkpoint_minutes = 15
sample_prompt = "The Moon is"
