"""On from a model that there is, on a Wikipedia in another language or a newer one: SmolLM2-135M on German here.

python prepare_wiki.py --source=wikimedia/wikipedia/20231101.de --tokenizer=out/smollm2 --data_dir=data/wiki_de
python train.py config/continue_pretrain.py
python train.py config/continue_pretrain.py --batch_size=4                a card of 12 GB
torchrun --standalone --nproc_per_node=8 train.py config/continue_pretrain.py

The corpus is encoded with the model's own tokenizer; shape and tokenizer come from its folder. Another model:
--init_from=<its folder>, and the same for --tokenizer. The rate rises anew, to less than the model's own peak, and
falls to 0 (Ibrahim et al. 2024, arXiv 2403.08763); so that the old text is not forgotten, mix some of it in:
--data=wiki_de:0.9,wiki_en_smollm2:0.1.

What to expect. Not measured: estimates from 6 FLOPs for each parameter and token, and attention's, 1.02 GFLOPs a token.
4,000 steps of 262,144 tokens are 1.0B tokens: 1.1e18 FLOPs. At 40 % of the data sheet's bfloat16: 2.4 hours on one
A100, 4.5 on one RTX 4090, 10 on one RTX 3090. Memory of a step: docs/pretraining.md.
"""

init_from = "out/smollm2"
data = "wiki_de"
out_dir = "out/continue"

block_size = 1024
batch_tokens = 256 * 1024
batch_size = 16
max_iters = 4000
learning_rate = 6e-4
warmup_iters = 200
schedule = "linear"
eval_interval = 200
checkpoint_interval = 200
checkpoint_minutes = 15
sample_prompt = "Der Mond ist"
