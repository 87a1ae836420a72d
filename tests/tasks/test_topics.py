import pytest

from softprompt_jax.tasks import get_task, topics

AG_NEWS = [
    ("Wall St. Bears Claw Back", "Short-sellers are seeing green again.", 2, "Business"),
    ("Phelps <b>wins</b>", "Reuters - It #39;s gold\\for him.", 1, "Sports"),
    ("", "No title.", 0, "World"),
    ("title: twice", "description: twice", 3, "Sci/Tech"),
    (" Spaces  stay ", "naïve “quotes”", 0, "World"),
]
IMDB = [
    ("I loved it.", 1, "review: I loved it.", "positive"),
    ("Bad.<br /><br />Very bad.", 0, "review: Bad. Very bad.", "negative"),
    ("One<br>two <BR/> three<br / >", 1, "review: One two three<br / >", "positive"),
    ("<br />Starts.\n\nParagraph.<br />", 0, "review: Starts.\n\nParagraph.", "negative"),
    ("<i>Only</i> breaks go; <branch> & <b> stay", 1,
     "review: <i>Only</i> breaks go; <branch> & <b> stay", "positive"),
]  # fmt: skip


@pytest.mark.parametrize(("title", "description", "label", "topic"), AG_NEWS)
def test_ag_news(title, description, label, topic):
    task = get_task("ag_news_subset")
    example = {"title": title, "description": description, "label": label}
    text = f"title: {title} description: {description}"
    assert task.text_pairs(example, task_prefix=False) == [(text, topic)]
    assert task.text_pairs(example) == [(f"ag_news_subset {text}", topic)]
    assert topic in task.labels


@pytest.mark.parametrize(("review", "label", "text", "sentiment"), IMDB)
def test_imdb(review, label, text, sentiment):
    task = get_task("imdb_reviews")
    example = {"text": review.encode(), "label": label}
    assert task.text_pairs(example, task_prefix=False) == [(text, sentiment)]
    assert task.text_pairs(example) == [(f"imdb_reviews {text}", sentiment)]


def test_tasks():
    assert get_task("imdb_reviews").text_pairs({"text": "Unrated.", "label": -1}) == []
    for name, labels in (("ag_news_subset", topics.TOPICS), ("imdb_reviews", topics.SENTIMENTS)):
        task = get_task(name)
        assert task.labels == labels
        assert task.splits == ("train", "validation", "test")
        assert (task.metrics, task.evaluation) == (("accuracy",), "generate")
