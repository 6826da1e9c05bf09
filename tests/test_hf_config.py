"""config.json: written as transformers reads it, read in either spelling, refused by name where it asks for more."""

import json

import pytest
from transformers import AutoConfig

from hf_config import RANGES, hf_config, read_config
from model import ModelConfig, RopeScaling, rope_frequencies

SCALED = ModelConfig(64, 24, 2, 4, 2, 32, 48, rope_theta=500000.0, rope_scaling=RopeScaling())


def write_config(folder, config: dict) -> None:
    """config.json without the keys whose value is ..."""
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({}, SCALED),
        ({"rope_parameters": None}, SCALED),
        ({"rope_scaling": ..., "rope_theta": ...}, SCALED),
        ({"rope_scaling": {"type": "llama3"}}, SCALED),
        ({"rope_scaling": None}, "contradicts"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling factor=4.0 contradicts 8.0"),
        ({"rope_theta": 10000.0}, "rope_theta=10000.0 contradicts 500000.0"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_theta=500000.0 contradicts 10000.0"),
        ({"rope_scaling": ..., "rope_parameters": {"low_freq_factor": ...}}, "low_freq_factor is missing"),
        ({"rope_scaling": ..., "rope_parameters": {"factor": "8"}}, "factor='8' is not a number"),
        ({"rope_scaling": ..., "rope_parameters": {"high_freq_factor": 0.5}}, "Llama 3.1 has"),
        ({"rope_scaling": ..., "rope_parameters": {"beta_fast": 32}}, "beta_fast=32 is not implemented"),
        ({"rope_scaling": ..., "rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' is not implemented"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "linear"}}, "rope_type='linear' is not implemented"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "dynamic"}}, "rope_type='dynamic' is not implemented"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not implemented"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not implemented"),
        ({"partial_rotary_factor": 1.0}, SCALED),
        ({"rope_scaling": "llama3"}, "rope_scaling='llama3' is not an object"),
    ],
    ids=str,
)
def test_rope_settings_in_either_spelling(theirs, expected, tmp_path):
    """...: the key is left out; a dictionary: these keys in it are changed. Where we read it, so does transformers."""
    config = hf_config(SCALED, 0)
    for key, value in theirs.items():
        if isinstance(value, dict):
            changed = config[key] | value
            config[key] = {inner: setting for inner, setting in changed.items() if setting is not ...}
        else:
            config[key] = value
    write_config(tmp_path, config)

    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"config.json: .*({expected})"):
            read_config(tmp_path)
    else:
        assert read_config(tmp_path) == expected
        rope = AutoConfig.from_pretrained(tmp_path).rope_parameters
        assert (rope["rope_theta"], rope["rope_type"], rope["factor"]) == (500000.0, "llama3", 8.0)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", {"num_key_value_heads": ..., "head_dim": ..., "tie_word_embeddings": ...}),
        ("llama", {"num_key_value_heads": None, "head_dim": None}),
        ("llama", {"rope_interleaved": False, "pretraining_tp": 1, "layer_types": ["full_attention"] * 2}),
        ("llama", {"rope_theta": ..., "rope_parameters": ..., "rope_scaling": ...}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}),
        ("qwen3", {"sliding_window": None, "max_window_layers": 1, "layer_types": ["full_attention"] * 2}),
        ("mistral", {"sliding_window": None, "attention_dropout": 0.0}),
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(family, change, tmp_path):
    switches = {"qkv_bias": family == "qwen2", "qk_norm": family == "qwen3"}
    shape = ModelConfig(64, 24, 2, 4, 4, 32, 48, tie_embeddings=False, **switches)
    config = hf_config(shape, 0) | {"model_type": family} | change
    write_config(tmp_path, config)
    assert read_config(tmp_path) == shape
    known = AutoConfig.from_pretrained(tmp_path)  # these are what transformers makes of it
    assert (known.num_key_value_heads, known.tie_word_embeddings) == (4, False)
    assert getattr(known, "sliding_window", None) is None and known.rope_parameters["rope_theta"] == 10000.0


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "llama",
            {"model_type": "gemma"},
            "model_type='gemma' is not implemented here, only 'llama', 'mistral', 'qwen2', 'qwen3'",
        ),
        ("llama", {"model_type": ...}, "model_type=None"),
        ("llama", {"model_type": ["llama"]}, r"model_type=\['llama'\]"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' is not implemented here, only 'silu'"),
        ("llama", {"attention_bias": True}, "attention_bias=True is not implemented here, only False"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved=True"),
        ("llama", {"sliding_window": 4096}, "sliding_window=4096"),
        ("mistral", {"sliding_window": 4096}, "sliding_window=4096"),
        ("mistral", {"sliding_window": ...}, "sliding_window=4096"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ("qwen3", {"layer_types": "full_attention"}, "layer_types="),
        ("llama", {"num_experts": 8}, "num_experts=8"),
        ("llama", {"num_local_experts": 8}, "num_local_experts=8"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("llama", {"hidden_size": -32}, r"n_embd \(-32\) must be at least 1"),
        ("llama", {"hidden_size": ...}, "hidden_size is missing"),
        ("llama", {"hidden_size": "32"}, "hidden_size='32' is not a whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers=True is not a whole number"),
        ("llama", {"num_hidden_layers": 1e18}, "num_hidden_layers=1e.18 is not a whole number"),
        ("llama", {"num_hidden_layers": 10**18}, "n_layer .* must be at most"),
        ("llama", {"max_position_embeddings": 10**18}, "block_size .* must be at most"),
        ("llama", {"head_dim": 7}, "head_dim .7. must be even"),
        ("llama", {"head_dim": "8"}, "head_dim='8' is not a whole number"),
        ("llama", {"vocab_size": None}, "vocab_size=None is not a whole number"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be from 1e-20 to 1"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' is not a number"),
        ("llama", {"rope_theta": 10**400, "rope_parameters": ...}, "rope_theta=1000000.* must be from 1 to"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings=1 is not true or false"),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_by_name(family, change, message, tmp_path):
    """Also sizes for which allocating, or making the layers, would take all memory or for ever."""
    shape = ModelConfig(64, 24, 2, 4, 2, 32, 48, qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
    config = hf_config(shape, 0) | {"model_type": family, "sliding_window": None}
    write_config(tmp_path, config)
    assert read_config(tmp_path) == shape

    write_config(tmp_path, config | change)
    with pytest.raises(ValueError, match=f"config.json: .*({message})") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


ROPE_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps", *ROPE_NUMBERS])
def test_every_number_has_bounds_between_which_the_positions_are_finite(key, tmp_path):
    config = hf_config(SCALED, 0)

    def write(**numbers) -> None:
        """Put these numbers wherever config.json has them."""
        for settings in (config, config["rope_scaling"], config["rope_parameters"]):
            for name in settings.keys() & numbers.keys():
                settings[name] = numbers[name]
        write_config(tmp_path, config)

    smallest, largest = RANGES[key]
    below = smallest - 1 if smallest == 1 else smallest / 2
    for value in (below, 2 * largest, -1, 0, 10**400, float("nan"), float("inf")):
        write(**{key: value})
        with pytest.raises(ValueError, match="config.json: ") as caught:
            read_config(tmp_path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    for value in (smallest, largest):
        if key in ("low_freq_factor", "high_freq_factor"):  # low must be below high
            write(low_freq_factor=smallest, high_freq_factor=largest)
        else:
            write(**{key: value})
        shape = read_config(tmp_path)
        assert rope_frequencies(shape.head_width, shape.rope_theta, shape.rope_scaling).isfinite().all()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"vocab_size": ' + b"9" * 5000 + b"}"],
    ids=lambda content: repr(content[:10]),
)
def test_a_config_that_is_no_object_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json: not readable as JSON") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
