"""Models of which there is nothing but a config.json."""

import json

from softprompt_jax.config import (
    ModelOptions,
    ParallelOptions,
    PromptOptions,
    RunConfig,
    TaskOptions,
    TrainOptions,
)

RAW = {
    "t5": {
        "model_type": "t5",
        "vocab_size": 384,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "llama": {
        "model_type": "llama",
        "vocab_size": 384,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


def write_shape(folder, family):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(RAW[family]))
    return folder


def shape_config(folder, family="t5", parallel=None, **train):
    return RunConfig(
        model=ModelOptions(name=str(write_shape(folder / family, family))),
        prompt=PromptOptions(length=24),
        task=TaskOptions(max_input_length=40, max_target_length=4),
        train=TrainOptions(**{"batch_size": 8, **train}),
        parallel=parallel or ParallelOptions(devices=1),
    )
