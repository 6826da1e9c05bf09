"""SmolLM2-135M learns to follow Alpaca's instructions: all weights are trained.

python prepare_chat.py config/chat_alpaca.py
python train.py config/sft_smollm2.py
python chat.py --checkpoint=out/sft_smollm2
Another model: --init_from=<its folder>, and --tokenizer=<its folder> for prepare_chat.py.
"""

data = "alpaca"
init_from = "out/smollm2"
out_dir = "out/sft_smollm2"

block_size = 1024
batch_tokens = 16 * 1024
batch_size = 4
max_iters = 470  # two epochs
learning_rate = 1e-4
warmup_iters = 20
schedule = "linear"
weight_decay = 0.0
eval_interval = 100
log_interval = 10
sample_prompt = "Give three tips for staying healthy."
