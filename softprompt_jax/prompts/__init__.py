"""What is trained: soft prompts, their initialisers, and the model that wears one."""

from softprompt_jax.prompts.prompted_model import Prompt, PromptedModel
from softprompt_jax.prompts.soft_prompt import SoftPrompt

__all__ = ["Prompt", "PromptedModel", "SoftPrompt"]
