"""Prompts in the forms of others: PEFT adapters, .npy files, prompt embeddings, the hub."""

from softprompt_jax.exchange.embeddings import export_embeddings
from softprompt_jax.exchange.google import export_npy, import_npy
from softprompt_jax.exchange.peft import export_peft, import_peft
from softprompt_jax.exchange.repository import (
    from_hub,
    push_to_hub,
    read_any_prompt,
    read_prompt,
)

__all__ = [
    "export_embeddings",
    "export_npy",
    "export_peft",
    "from_hub",
    "import_npy",
    "import_peft",
    "push_to_hub",
    "read_any_prompt",
    "read_prompt",
]
