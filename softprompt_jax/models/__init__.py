"""The frozen models: T5, the Llama family and GPT-2, and how they are loaded."""

from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.loading import ModelFiles, load_model, resolve_model
from softprompt_jax.models.saving import save_model

__all__ = ["LanguageModel", "ModelFiles", "load_model", "resolve_model", "save_model"]
