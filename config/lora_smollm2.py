"""SmolLM2-135M learns to follow Alpaca's instructions: LoRA, 3.6 % of the weights are trained beside the others.

python prepare_chat.py config/chat_alpaca.py
python train.py config/lora_smollm2.py
python chat.py --adapter=out/lora_smollm2
python lora.py --adapter=out/lora_smollm2 --out_dir=out/merged        a plain folder
"""

data = "alpaca"
init_from = "out/smollm2"
out_dir = "out/lora_smollm2"
lora_rank = 16
lora_alpha = 32

block_size = 1024
batch_tokens = 16 * 1024
batch_size = 4
max_iters = 470  # two epochs
learning_rate = 1e-3
warmup_iters = 20
schedule = "linear"
weight_decay = 0.0
eval_interval = 100
log_interval = 10
sample_prompt = "Give three tips for staying healthy."
