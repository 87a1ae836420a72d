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

from softprompt_jax.analysis.transfer import combine
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

    Raises:
        UserError: as `combine`, which calls the prompts #1, #2 and so on.
    """
    return combine({f"#{number}": prompt for number, prompt in enumerate(prompts, start=1)})
