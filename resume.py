"""Where a run begins: with new weights, those of a folder, or at a checkpoint; what a resumed run may not change."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

import checkpoint
import lora
from chat_template import ChatTemplate, read_template
from errors import one_line
from mixture import Mixture
from model import ModelConfig
from tokenizer import Tokenizer
from vocabulary import Growth

# What a resumed run may not change, besides the text: the model, and which tokens make a step.
MODEL = ("n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden", "rope_theta", "tie_embeddings", "qk_norm")
STEP = ("objective", "block_size", "optimizer", "batch_tokens", "seed", "shuffle_run")
LORA = ("lora_rank", "lora_alpha", "lora_targets")
RESUME_FIXED = ("init_from", *LORA, *MODEL, *STEP)
# What it may change, and will learn otherwise by. (A default may have changed since the run began.)
RATES = (
    "learning_rate",
    "muon_lr",
    "muon_even_rows",
    "min_lr",
    "schedule",
    "weight_decay",
    "beta1",
    "beta2",
    "grad_clip",
)


class RunSettings(Protocol):
    """What is read here of the settings of a run; train.py's TrainConfig has it, and all that MODEL and STEP name."""

    data: str  # folders of token shards
    out_dir: str  # the run's own folder
    init_from: str | None  # start with the weights of this folder
    resume_from: str | None  # go on from this checkpoint in a new out_dir
    max_iters: int  # steps of the run
    num_threads: int | None  # CPU threads; None: torch's choice
    block_size: int  # tokens in a window
    n_embd: int  # model width
    ffn_hidden: int | None  # feed-forward width; None: derived from n_embd
    lora_rank: int  # of adapters; 0: none, all weights are trained


@dataclass
class RunState:
    """Where a run stands. With weights, optimizer and settings it is all that a restart needs (training/state.json)."""

    step: int = 0  # optimizer steps taken
    evaluated: int = -1  # step of the newest evaluation
    val_loss: float = math.inf  # that it found
    best_val_loss: float = math.inf  # of the checkpoint that `best` points to


@dataclass(frozen=True)
class Start:
    """Where a run begins, found out before anything is built."""

    cfg: RunSettings  # with init_from the model's settings are the folder's
    shape: ModelConfig
    tokenizer: Tokenizer
    carried: checkpoint.Files  # small files that came with the weights and go into each checkpoint
    template: ChatTemplate | None  # goes into each checkpoint; None: what is carried has all that it needs
    weights: Path | None  # start with these weights; None: new ones. With LoRA: the base, of a run that goes on too
    growth: Growth | None  # rows that these weights lack
    checkpoint: Path | None  # go on from here, optimizer included
    resumed: bool  # the checkpoint is one of out_dir
    state: RunState
    notes: list[str]  # what the user should know


def find_start(cfg: RunSettings, data: Mixture) -> Start:
    """Look for a checkpoint in out_dir, then at resume_from and init_from; nothing is written.

    Raises ValueError when the settings, the data or the tokenizer are not those of what was found.
    """
    folder, notes = find_own_checkpoint(Path(cfg.out_dir))
    resumed = folder is not None
    if folder is None and cfg.resume_from is not None:
        folder = checkpoint.find_folder(Path(cfg.resume_from)).resolve()
    if folder is not None:
        check_kind(cfg, folder)

    if cfg.init_from is None:
        weights = None
        tokenizer = data.tokenizer
        shape = model_shape(cfg, tokenizer.vocab_size)
        growth = None
        carried = {}
        template = data.template
    else:
        weights = folder if folder is not None and not cfg.lora_rank else checkpoint.resolve(cfg.init_from)
        cfg, shape, tokenizer, growth = use_folder_model(cfg, weights, data.tokenizer)
        carried = checkpoint.companions(weights)
        template = template_to_write(weights, tokenizer, growth, data, notes)
        if growth is not None and growth.tokens:
            count = "1 token" if len(growth.tokens) == 1 else f"{len(growth.tokens)} tokens"
            notes.append(f"the vocabulary grows by {count}: {growth}")

    adapters = lora.settings_of(cfg)
    if adapters is not None:
        lora.without_memory(shape, adapters)  # only for its errors
    if adapters is not None and growth is not None:
        why = f"the data has tokens that {weights} lacks ({growth}), and LoRA leaves the embedding as it is"
        raise ValueError(f"{why}; give it rows for them first: python grow.py --checkpoint={weights}")

    state = RunState()
    if folder is not None:
        saved = checkpoint.read_state(folder)
        check_resume(cfg, folder, saved, tokenizer, data)
        state = RunState(**{key: saved[key] for key in asdict(state)})
        threads = cfg.num_threads or torch.get_num_threads()
        had_threads = saved.get("threads", threads)
        if had_threads != threads:
            notes.append(f"note: it ran with --num_threads={had_threads}; the last bits of the results will differ")
        notes += changed_rates(cfg, saved["settings"])

        if resumed:
            check_resume_from(cfg, folder, saved)
        elif state.step >= cfg.max_iters:
            wrong = f"checkpoint {folder} is at step {state.step}, so --max_iters={cfg.max_iters} leaves nothing to do"
            raise ValueError(f"{wrong}; raise --max_iters")
    return Start(cfg, shape, tokenizer, carried, template, weights, growth, folder, resumed, state, notes)


def find_own_checkpoint(out_dir: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint in out_dir to go on from, None without one, and notes for the user.

    Where `latest` is missing or points nowhere it is the newest complete one. Raises ValueError when there are
    checkpoints and none is complete: a run that began anew would delete them.
    """
    latest = out_dir / "latest"
    if latest.is_dir():
        folder = out_dir / latest.resolve().name  # its name says the step
        return folder if folder.is_dir() else latest, []

    newest = checkpoint.newest_complete(out_dir)
    if newest is not None:
        if latest.is_symlink():
            state = "points nowhere"
        elif latest.exists():
            state = "is a file, not a link"  # what some programs make of a link when they copy it
        else:
            state = "is missing"
        return newest, [f"note: {latest} {state}; {newest.name} is the newest complete checkpoint"]

    damaged = checkpoint.step_folders(out_dir)
    if damaged:
        wrong = f"{out_dir} has no `latest`, and no complete checkpoint ({damaged[0].name} is damaged)"
        raise ValueError(f"{wrong}; move the step_... folders away to begin anew, or give another --out_dir")
    return None, []


def check_kind(cfg: RunSettings, folder: Path) -> None:
    """Refuse to go on from an adapter's checkpoint without LoRA, and from a model's with LoRA."""
    if checkpoint.is_adapter(folder) != (cfg.lora_rank > 0):
        had = checkpoint.read_state(folder)["settings"].get("lora_rank", 0)
        raise ValueError(another_setting(folder, "lora_rank", had, cfg.lora_rank))


def check_resume(cfg: RunSettings, folder: Path, saved: dict[str, Any], tokenizer: Tokenizer, data: Mixture) -> None:
    """Refuse to continue a run with another model, data or step, and name the setting."""
    of_folder = MODEL if cfg.init_from is not None else ()  # not the settings': a Qwen3 had qk_norm before they did
    for key in RESUME_FIXED:
        if key in of_folder and key not in saved["settings"]:
            continue
        had = saved["settings"].get(key, getattr(type(cfg), key))  # a setting that came later had its default
        if had != getattr(cfg, key):
            raise ValueError(another_setting(folder, key, had, getattr(cfg, key)))
    check_content(cfg, folder, saved, data)
    if not Tokenizer.load(folder).same(tokenizer):
        raise ValueError(f"checkpoint {folder} has another tokenizer than the data has now; give another --out_dir")


def changed_rates(cfg: RunSettings, saved: dict[str, Any]) -> list[str]:
    """Notes on what a run is told to learn by now, where its last checkpoint was made with another value."""
    notes = []
    for key in RATES:
        now = getattr(cfg, key)
        had = saved.get(key, getattr(type(cfg), key))  # a setting that came later had its default
        has_effect = not key.startswith("muon") or cfg.optimizer == "muon"
        if had != now and has_effect:
            notes.append(f"note: it ran with --{key}={had}; from here on it is {now}")
    return notes


def another_setting(folder: Path, key: str, had: Any, asked: Any) -> str:
    """The error for a setting that a resumed run may not change."""
    wrong = f"checkpoint {folder} has {key}={had} but the settings say {asked}"
    return f"{wrong}; give --{key}={had} to resume, or another --out_dir"


def check_content(cfg: RunSettings, folder: Path, saved: dict[str, Any], data: Mixture) -> None:
    """Refuse another text than the checkpoint was trained on. The same text may lie elsewhere."""
    corpora = data.content()
    if "data" in saved:
        with one_line(f"{folder}/training/state.json: data is damaged: ", KeyError, TypeError):
            then = [(corpus["weight"], corpus["content"]) for corpus in saved["data"]]
        now = [(corpus["weight"], corpus["content"]) for corpus in corpora]
        if then == now:
            return

    had = saved["settings"].get("data")
    if had != cfg.data:
        raise ValueError(another_setting(folder, "data", had, cfg.data))
    if "data" not in saved:
        return  # a checkpoint from before the content was noted: the same name must do

    names = ", ".join(corpus["name"] for corpus in corpora)
    wrong = f"the text of {names} is not the one that checkpoint {folder} was trained on"
    raise ValueError(f"{wrong}; put the old data folder back, or give another --out_dir")


def check_resume_from(cfg: RunSettings, folder: Path, saved: dict[str, Any]) -> None:
    """Refuse a resume_from that has no effect. Where the run in out_dir began is no such: the same command goes on."""
    if cfg.resume_from is None:
        return
    began_from = saved["settings"].get("resume_from")
    if began_from is None or Path(began_from).absolute() != Path(cfg.resume_from).absolute():
        wrong = f"{cfg.out_dir} has a checkpoint already ({folder.name})"
        effect = f"--resume_from={cfg.resume_from} would have no effect"
        raise ValueError(f"{wrong}: {effect}; leave it out to go on, or give another --out_dir")


def use_folder_model(
    cfg: RunSettings, folder: Path, data_tokenizer: Tokenizer
) -> tuple[RunSettings, ModelConfig, Tokenizer, Growth | None]:
    """The settings with the model of a Hugging Face folder, its shape (with a longer context, maybe), the tokenizer,
    and the rows that the model gets for tokens that only the data's tokenizer has.

    Raises ValueError for a setting that asks for another model, and for data of another tokenizer.
    """
    shape = checkpoint.read_config(folder)
    tokenizer = Tokenizer.load(folder)
    checkpoint.check_vocabulary(shape, tokenizer)
    tokenizer, growth = common_tokenizer(folder, tokenizer, data_tokenizer, shape.vocab_size)
    if growth is not None:
        shape = replace(shape, vocab_size=growth.rows)

    for key in MODEL:
        asked = getattr(cfg, key)
        if asked not in (getattr(type(cfg), key), getattr(shape, key)):
            raise ValueError(f"{key}={asked}, but {folder} has {getattr(shape, key)}; leave --{key} out")
    if cfg.block_size > shape.block_size:
        advice = f"try --block_size={shape.block_size}"
        raise ValueError(f"block_size ({cfg.block_size}) is longer than {folder}'s; {advice}")

    model_settings = {key: getattr(shape, key) for key in MODEL}
    return replace(cfg, **model_settings), shape, tokenizer, growth


def common_tokenizer(folder: Path, own: Tokenizer, of_data: Tokenizer, rows: int) -> tuple[Tokenizer, Growth | None]:
    """The larger one of a model's tokenizer and its data's; if it is the data's, how a model of `rows` rows grows."""
    if own.extends(of_data):
        return own, None
    if not of_data.extends(own):
        advice = f"prepare it with --tokenizer={folder}"
        raise ValueError(f"the data has another tokenizer than {folder}; {advice}")
    tokenizer = of_data.with_stops(own.stops)
    return tokenizer, Growth.between(own, tokenizer, rows)


def template_to_write(
    folder: Path, tokenizer: Tokenizer, growth: Growth | None, data: Mixture, notes: list[str]
) -> ChatTemplate | None:
    """The chat template that checkpoints need and do not get with what `folder` carries.

    It is that of the conversations, or the folder's own where its other files no longer fit a larger tokenizer.
    Adds a note where conversations were made with another template than the folder's.
    """
    if data.template is None and growth is None:
        return None
    own = read_template(folder)
    if data.template is None:
        return None if own is None else ChatTemplate(own[0], tokenizer, str(own[1]))

    template = replace(data.template, tokenizer=tokenizer)
    is_own = own is not None and own[0] == template.source
    if own is not None and not is_own:
        notes.append(f"note: {template.where} is not the template in {own[1]}; checkpoints get the data's")
    fits = growth is None and template.end_of_turn in tokenizer.stops
    return None if is_own and fits else template


def model_shape(cfg: RunSettings, vocab_size: int) -> ModelConfig:
    """The decoder that the settings describe, for a tokenizer of `vocab_size` ids."""
    settings = {key: getattr(cfg, key) for key in (*MODEL, "block_size")}
    settings["vocab_size"] = round_up(vocab_size, 64)  # GPUs multiply multiples of 64 faster
    if cfg.ffn_hidden is None:
        settings["ffn_hidden"] = round_up(8 * cfg.n_embd / 3, 64)
    return ModelConfig(**settings)


def round_up(number: float, multiple: int) -> int:
    """The next multiple: round_up(341.3, 64) is 384."""
    return math.ceil(number / multiple) * multiple
