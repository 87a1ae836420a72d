"""Writing a model as a folder in transformers' format."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from softprompt_jax.files import check_replaceable, replace_folder
from softprompt_jax.models.checkpoints import torch_names
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.parameter_tables import find_rule
from softprompt_jax.models.stacking import each_layer, is_of_stack

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "additional_chat_templates"),
)
"""What `save_pretrained` writes of a tokenizer, in some version of transformers, beside the files
that the tokenizer's class names itself. The last is a folder."""


def save_model(folder: str | Path, model: LanguageModel, module: Any = None) -> None:
    """Writes `config.json`, `model.safetensors` and the tokenizer, as transformers reads them.

    A model that the folder held before is replaced whole.

    Args:
        folder: where to.
        model: gives config and tokenizer.
        module: the weights, if they are not the model's own (after model tuning); stacked or
            not, the file is the same.

    Raises:
        UserError: there is something else in the folder, which would be lost.
    """
    folder = Path(folder)
    of_class = model.tokenizer.vocab_files_names.values()
    ours = (WEIGHTS_FILE, CONFIG_FILE, *TOKENIZER_FILES, *of_class)
    check_replaceable(folder, "a model", [WEIGHTS_FILE], ours)
    module = model.module if module is None else module
    state = torch_state(module, model.config.family)
    # transformers loads weights in the dtype that the config names, whatever their own is.
    config = {key: value for key, value in model.raw_config.items() if key != "torch_dtype"}
    config["dtype"] = next(iter(state.values())).dtype.name
    if model.config.family != "t5":  # there the flag tells whether the decoder's output is scaled
        config["tie_word_embeddings"] = model.config.tied
    with replace_folder(folder) as fresh:
        safetensors.numpy.save_file(state, fresh / WEIGHTS_FILE, metadata={"format": "pt"})
        (fresh / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        model.tokenizer.save_pretrained(fresh)


def torch_state(module: Any, family: str) -> dict[str, np.ndarray]:
    """A module's parameters under torch's names and in torch's layout, layer by layer.

    Args:
        module: its blocks may be stacked, and its parameters cut over this process's devices.
        family: "t5", "llama" or "gpt2".
    """
    flat: dict[str, np.ndarray] = {}
    for keys, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        path, values = ".".join(map(str, keys)), np.asarray(jax.device_get(leaf[...]))
        if is_of_stack(path):
            flat |= zip(each_layer(path, len(values)), values, strict=True)
        else:
            flat[path] = values
    state = {}
    for path, values in flat.items():
        # T5's "up" is wi_1 beside a gate and wi without.
        gated = path.replace(".up.", ".gate.") in flat
        name = torch_names(family, path)[-1 if gated else 0]
        rule = find_rule(family, name)
        assert rule is not None, name
        state[name] = np.ascontiguousarray(values.T if rule[1] else values)
    return state
