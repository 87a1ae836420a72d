"""Prompt ensembles: several prompts of one task answer each text, and their answers are joined.

References:
    Lester et al. 2021, section 6: a frozen model and N prompts ensemble N "models" in one pass, by
    replicating each example over a batch; predictions are combined by majority vote.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from softprompt_jax.errors import UserError
from softprompt_jax.inference.encoding import Texts
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.prompts.soft_prompt import SoftPrompt


def score_with_each(
    predictor: Predictor, prompts: Sequence[str], texts: Texts, choices: Sequence[str]
) -> Float[np.ndarray, "n_prompts n_texts n_choices"]:
    """Log-likelihood of every choice under every prompt, each text once with each prompt.

    The copies of a text stand side by side, so one batch mixes the prompts.

    Args:
        predictor: that holds the prompts.
        prompts: their names.
        texts: inputs, as the task words them.
        choices: possible answers.

    Returns:
        float32, in nats.
    """
    copies: Any = [text for text in texts for _ in prompts]
    scores = predictor.score(copies, choices, list(prompts) * len(texts))
    return scores.reshape(len(texts), len(prompts), len(choices)).transpose(1, 0, 2)


def generate_with_each(
    predictor: Predictor, prompts: Sequence[str], texts: Texts, max_new_tokens: int
) -> list[list[str]]:
    """The greedy answer to every text under every prompt, `[prompts][texts]`."""
    copies: Any = [text for text in texts for _ in prompts]
    answers = predictor.generate(copies, list(prompts) * len(texts), max_new_tokens)
    return [answers[i :: len(prompts)] for i in range(len(prompts))]


def majority_vote(scores_PxNxC: Float[np.ndarray, "P N C"]) -> Int[np.ndarray, " N"]:
    """The choice that most prompts find likeliest.

    Of choices with equally many votes, the one with the higher log-likelihood summed over all
    prompts wins (the paper names no rule); the first one should these be equal too.
    """
    choices = scores_PxNxC.shape[2]
    votes_NxC = (scores_PxNxC.argmax(axis=2)[..., None] == np.arange(choices)).sum(axis=0)
    summed_NxC = scores_PxNxC.astype(np.float64).sum(axis=0)
    return np.lexsort((-summed_NxC, -votes_NxC), axis=1)[:, 0]


def mean_probability(scores_PxNxC: Float[np.ndarray, "P N C"]) -> Int[np.ndarray, " N"]:
    """The choice with the highest probability among the choices, averaged over the prompts."""
    shifted = scores_PxNxC.astype(np.float64)
    shifted = np.exp(shifted - shifted.max(axis=2, keepdims=True))
    return (shifted / shifted.sum(axis=2, keepdims=True)).mean(axis=0).argmax(axis=1)


def majority_text(answers: Sequence[Sequence[str]]) -> list[str]:
    """The text that most prompts gave: `[prompts][texts]` to `[texts]`.

    Of texts that equally many gave, the one that comes first in the prompts' order wins.
    """
    return [Counter(row).most_common(1)[0][0] for row in zip(*answers, strict=True)]


def mean_prompt(prompts: Sequence[SoftPrompt]) -> SoftPrompt:
    """The prompt whose vectors are the mean of others', position by position.

    Its card tells the model, task and labels where all prompts agree on them.

    Raises:
        UserError: there are none, or their shapes differ.
    """
    if not prompts:
        raise UserError("There is no prompt to average; give at least one.")
    shapes = {tuple(prompt.vectors.shape) for prompt in prompts}
    if len(shapes) > 1:
        raise UserError(
            f"Prompts of the shapes {', '.join(map(str, sorted(shapes)))} have no mean; average "
            "prompts of one length and model."
        )
    mean = np.mean([np.asarray(prompt.vectors, np.float64) for prompt in prompts], axis=0)
    first = prompts[0].card
    common = {
        name: first[name]
        for name in ("model", "model_fingerprint", "task", "labels")
        if name in first and all(prompt.card.get(name) == first[name] for prompt in prompts)
    }
    return SoftPrompt(mean.astype(np.float32), {**common, "init": "mean of prompts"})
