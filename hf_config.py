"""config.json of a Hugging Face folder, both ways: written from a ModelConfig, and read into one.

What a config.json asks for and model.py does not compute is refused by name, before any weight is read.

The base of the rotary positions and their stretch (Llama 3.1) stand in one of two places; written are both:

    transformers 4    "rope_theta": 500000.0,
                      "rope_scaling": {"rope_type": "llama3", "factor": 8.0, ...}       or null: not stretched
    transformers 5    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, ...}
"""

import dataclasses
from pathlib import Path
from typing import Any

from errors import one_line, read_json
from model import LARGEST, ModelConfig, RopeScaling
from quantized import Scheme, parse_scheme

HFConfig = dict[str, Any]  # what a config.json holds

NAMES = {  # key in config.json: field of ModelConfig
    "vocab_size": "vocab_size",
    "max_position_embeddings": "block_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "n_embd",
    "intermediate_size": "ffn_hidden",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}

FAMILIES = {  # model_type: its class in transformers, and the keys that its config.json has besides NAMES
    "llama": ("LlamaForCausalLM", {"attention_bias": False, "mlp_bias": False}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {"use_sliding_window": False}),
    "qwen3": ("Qwen3ForCausalLM", {"use_sliding_window": False, "attention_bias": False}),
}

COMPUTED = {  # what model.py computes: a config.json must say the same, null, or nothing
    "hidden_act": "silu",
    "is_causal": True,
    "attention_dropout": 0,
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "rope_interleaved": False,
    "sliding_window": None,
    "layer_types": None,
    "num_experts": None,
    "num_local_experts": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}

RANGES = {  # smallest and largest value of a number that float32 still computes with; ModelConfig checks the others
    "rope_theta": (1, 1e15),
    "rms_norm_eps": (1e-20, 1),
    "factor": (1, 1e6),
    "low_freq_factor": (1e-3, 1e6),
    "high_freq_factor": (1e-3, 1e6),
    "original_max_position_embeddings": (1, LARGEST),
}

TYPES = {int: "a whole number", float: "a number", bool: "true or false"}
DEFAULT_THETA = 10000.0  # of transformers, when a config.json does not say
MISTRAL_WINDOW = 4096  # the same


# --- writing ---


def hf_config(cfg: ModelConfig, end_of_text: int | None, dtype: str = "float32") -> HFConfig:
    """config.json's content for a model whose weights are stored as dtype."""
    family = family_of(cfg)
    architecture, family_keys = FAMILIES[family]

    scaling = dataclasses.asdict(cfg.rope_scaling) if cfg.rope_scaling else {}
    rope = {"rope_type": "llama3" if scaling else "default", **scaling}

    return {
        "architectures": [architecture],
        "model_type": family,
        "hidden_act": COMPUTED["hidden_act"],
        **family_keys,
        **{theirs: getattr(cfg, ours) for theirs, ours in NAMES.items()},
        "head_dim": cfg.head_width,
        "rope_scaling": rope if scaling else None,  # transformers 4
        "rope_parameters": {"rope_theta": cfg.rope_theta, **rope},  # transformers 5
        "initializer_range": 0.02,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,  # transformers 5
        "torch_dtype": dtype,  # transformers 4
    }


def family_of(cfg: ModelConfig) -> str:
    """The model_type under which transformers computes this model."""
    if cfg.qkv_bias:
        return "qwen2"
    if cfg.qk_norm:
        return "qwen3"
    if cfg.n_embd % cfg.n_head:  # transformers' Llama wants heads that divide the width; Mistral is the same without
        return "mistral"
    return "llama"


# --- reading ---


def read_config(folder: str | Path, quantized: bool = False) -> ModelConfig:
    """The model's shape from a folder's config.json. Raises ValueError that names what is not implemented here.

    quantized: quantize.py's folders are welcome; whoever changes weights cannot use them.
    """
    path = Path(folder) / "config.json"
    config = read_json(path)
    with one_line(f"{path}: ", ValueError):
        scheme = parse_scheme(config)
        if scheme is not None and not quantized:
            advice = "take the folder that it was made from"
            raise ValueError(f"the weights are quantized, {scheme}: they can be read, and not changed; {advice}")
        return parse_config(config)


def read_scheme(folder: str | Path) -> Scheme | None:
    """How the weights of a folder are quantized; None when they are not."""
    path = Path(folder) / "config.json"
    config = read_json(path)
    with one_line(f"{path}: ", ValueError):
        return parse_scheme(config)


def parse_config(config: HFConfig) -> ModelConfig:
    """The model's shape from config.json's content."""
    family = config.get("model_type")
    refuse_other("model_type", family, *FAMILIES)
    check_features(family, config)

    theta, scaling = read_rope(config)
    fields = read_sizes(config | {"rope_theta": theta})
    switches = {"qkv_bias": family == "qwen2", "qk_norm": family == "qwen3"}
    return ModelConfig(**fields, rope_scaling=scaling, **switches)


def check_features(family: str, config: HFConfig) -> None:
    """Raise ValueError for what model.py does not compute: biases, sliding windows, experts, quantized weights."""
    asked = dict(config)
    if family == "mistral":
        asked.setdefault("sliding_window", MISTRAL_WINDOW)
    if family.startswith("qwen"):
        asked.pop("sliding_window", None)  # has no effect without use_sliding_window, which is refused

    layer_types = asked.get("layer_types")
    if isinstance(layer_types, list) and all(kind == "full_attention" for kind in layer_types):
        del asked["layer_types"]

    for key, computed in COMPUTED.items():
        value = asked.get(key)
        if value is not None:
            refuse_other(key, value, computed)


def read_rope(config: HFConfig) -> tuple[float, RopeScaling | None]:
    """The base theta and the stretch of the rotary positions, None when they are not stretched."""
    settings = merge_rope_settings(config)
    theta = read_value({"rope_theta": DEFAULT_THETA} | settings, "rope_theta", float)
    rope_type = settings.get("rope_type", "default")
    refuse_other("rope_type", rope_type, "default", "llama3")
    refuse_other("partial_rotary_factor", settings.get("partial_rotary_factor", 1), 1)

    fields = RopeScaling.__annotations__ if rope_type == "llama3" else {}
    known = {"rope_theta", "rope_type", "partial_rotary_factor", *fields}
    unknown = sorted(settings.keys() - known)
    if unknown:
        key = unknown[0]
        raise ValueError(f"{key}={settings[key]!r:.80} is not implemented here for rope_type={rope_type!r}")

    if rope_type == "default":
        return theta, None
    return theta, RopeScaling(**{key: read_value(settings, key, kind) for key, kind in fields.items()})


def merge_rope_settings(config: HFConfig) -> dict[str, Any]:
    """The rotary settings of all places in a config.json. Raises ValueError where two places contradict each other.

    "rope_scaling": null says that the positions are not stretched; without the key nothing is said.
    """
    of_version_5 = config.get("rope_parameters") or {}
    of_version_4 = config.get("rope_scaling", {})
    if of_version_4 is None:
        of_version_4 = {"rope_type": "default"}
    top_level = ("rope_theta", "partial_rotary_factor")
    beside = {key: config[key] for key in top_level if config.get(key) is not None}

    merged: dict[str, Any] = {}
    for place, settings in (("rope_parameters ", of_version_5), ("rope_scaling ", of_version_4), ("", beside)):
        if not isinstance(settings, dict):
            raise ValueError(f"{place.strip()}={settings!r:.80} is not an object")
        for key, value in settings.items():
            if key == "type":  # its name in older files
                key = "rope_type"
            if merged.setdefault(key, value) != value:
                raise ValueError(f"{place}{key}={value!r:.80} contradicts {merged[key]!r:.80} elsewhere in the file")
    return merged


def read_sizes(config: HFConfig) -> dict[str, Any]:
    """The fields of ModelConfig that stand in NAMES, and head_dim."""
    config = {"tie_word_embeddings": False, **config}
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    types = ModelConfig.__annotations__
    fields = {ours: read_value(config, theirs, types[ours]) for theirs, ours in NAMES.items()}

    fields["head_dim"] = None
    if config.get("head_dim") is not None:
        head_dim = read_value(config, "head_dim", int)
        if head_dim * fields["n_head"] != fields["n_embd"]:  # otherwise it says nothing new
            fields["head_dim"] = head_dim
    return fields


def read_value(config: HFConfig, key: str, kind: type) -> Any:
    """A value of config.json as int, float or bool. Raises ValueError for another type, or out of its range."""
    if key not in config:
        raise ValueError(f"{key} is missing")
    value = config[key]
    whole_for_float = kind is float and type(value) is int
    if type(value) is not kind and not whole_for_float:
        raise ValueError(f"{key}={value!r:.80} is not {TYPES[kind]}")

    if key in RANGES:
        smallest, largest = RANGES[key]
        if not smallest <= value <= largest:  # `not`: NaN is out of range as well
            raise ValueError(f"{key}={value!r:.80} must be from {smallest} to {largest}")
    return kind(value)


def refuse_other(key: str, value: Any, *known: Any) -> None:
    """Raise ValueError unless `value` is one of those that are implemented here."""
    if value not in known:
        raise ValueError(f"{key}={value!r:.80} is not implemented here, only {', '.join(map(repr, known))}")
