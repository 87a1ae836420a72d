"""What a prompt is trained on: tasks by name, tasks from files, metrics."""

from softprompt_jax.tasks import movie_reviews as _movie_reviews  # noqa: F401  (registers itself)
from softprompt_jax.tasks.files import file_task
from softprompt_jax.tasks.metrics import METRICS, get_metric
from softprompt_jax.tasks.task import SPLITS, Example, Task, get_task, register_task, task_names

__all__ = [
    "METRICS",
    "SPLITS",
    "Example",
    "Task",
    "file_task",
    "get_metric",
    "get_task",
    "register_task",
    "task_names",
]
