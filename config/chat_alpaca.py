"""Stanford Alpaca, 52,000 instructions with answers in English (CC BY-NC 4.0), for SmolLM2 and its chat template.

python prepare_chat.py config/chat_alpaca.py
Other files: --source='path/*.json'. Another model: --tokenizer=<its folder>.
"""

source = "tatsu-lab/alpaca/data"
tokenizer = "out/smollm2"
data_dir = "data/alpaca"
max_tokens = 1024
