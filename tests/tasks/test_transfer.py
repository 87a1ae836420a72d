import pytest

from softprompt_jax.tasks import Reference, get_task
from softprompt_jax.tasks.transfer import rename_labels


@pytest.mark.parametrize(
    ("source", "target"), [("glue/qqp", "glue/mrpc"), ("glue/mrpc", "glue/qqp")]
)
def test_paraphrases(source, target):
    renames = rename_labels(source, target)
    assert renames is not None
    # Class by class: what the source calls its class 0 is the target's class 0.
    words = dict(zip(get_task(source).labels, get_task(target).labels, strict=True))
    assert dict(renames) == words
    references = [Reference((label,)) for label in get_task(target).labels]
    predicted = [*get_task(source).labels]
    task = get_task(target)
    assert task.evaluate(predicted, references)["outside_labels"] == 2
    metrics = task.evaluate([renames[word] for word in predicted], references)
    assert metrics == {"f1": 1.0, "accuracy": 1.0, "outside_labels": 0}


def test_words_of_the_paper():
    assert rename_labels("glue/qqp", "glue/mrpc") == {
        "duplicate": "equivalent",
        "not_duplicate": "not_equivalent",
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [("glue/qqp", "glue/qqp"), ("squad", "mrqa/drop"), ("glue/mnli", "glue/mnli_mismatched")],
)
def test_others_keep_their_words(source, target):
    assert rename_labels(source, target) is None
