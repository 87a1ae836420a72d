"""Soft prompt tuning in JAX: one frozen language model, a small trained prompt per task."""

from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import export_peft, import_peft
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import LanguageModel, load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt
from softprompt_jax.recipes import load_config
from softprompt_jax.tasks import Task, get_task, register_task
from softprompt_jax.training.tuning import train
from softprompt_jax.training.workdir import TrainResult
from softprompt_jax.version import __version__

__all__ = [
    "LanguageModel",
    "Predictor",
    "RunConfig",
    "SoftPrompt",
    "Task",
    "TrainResult",
    "UnfoldedPrompt",
    "UserError",
    "__version__",
    "export_peft",
    "get_task",
    "import_peft",
    "load_config",
    "load_model",
    "register_task",
    "train",
]
