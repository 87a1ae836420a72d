"""What a prompt is trained on: tasks by name, tasks from files, metrics."""

# Each of these registers its tasks.
from softprompt_jax.tasks import glue as _glue  # noqa: F401
from softprompt_jax.tasks import language_modelling as _language_modelling  # noqa: F401
from softprompt_jax.tasks import movie_reviews as _movie_reviews  # noqa: F401
from softprompt_jax.tasks import question_answering as _question_answering  # noqa: F401
from softprompt_jax.tasks import sms_spam as _sms_spam  # noqa: F401
from softprompt_jax.tasks import superglue as _superglue  # noqa: F401
from softprompt_jax.tasks import topics as _topics  # noqa: F401
from softprompt_jax.tasks.files import file_task
from softprompt_jax.tasks.metrics import METRICS, Reference, get_metric
from softprompt_jax.tasks.task import SPLITS, Example, Task, get_task, register_task, task_names
from softprompt_jax.tasks.transfer import rename_labels

__all__ = [
    "METRICS",
    "SPLITS",
    "Example",
    "Reference",
    "Task",
    "file_task",
    "get_metric",
    "get_task",
    "register_task",
    "rename_labels",
    "task_names",
]
