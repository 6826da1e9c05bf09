"""The demo's model learns to answer questions about Python: under two minutes on two CPU cores.

python train.py config/sft_demo.py        (after: make demo; python prepare_chat.py config/chat_pydocs.py)
"""

init_from = "out/demo"
data = "chat_pydocs"
out_dir = "out/chat-demo"
sample_prompt = "What does numpy.clip do?"

batch_tokens = 12 * 128
batch_size = 12
max_iters = 400
learning_rate = 3e-3
warmup_iters = 20
schedule = "linear"
eval_interval = 200
checkpoint_interval = 200
log_interval = 50
