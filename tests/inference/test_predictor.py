"""A Predictor gives each row what its prompt alone would give, whatever else is in the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, pad, random_prompt

from softprompt_jax.data import encode_choices, encode_inputs
from softprompt_jax.errors import UserError
from softprompt_jax.inference.decoding import greedy
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import load_model
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt

VARIANTS = ("t5", "mistral", "gpt2")
PROMPTS = {
    name: SoftPrompt(jnp.asarray(random_prompt(length, seed)))
    for name, length, seed in (("a", 6, 0), ("b", 2, 1), ("c", 6, 2))
}
TEXTS = [
    "the movie was good",
    "bad",
    "this is a very very awful film and not that great",
    "a question of the context",
    "the story is bad",
    "the cat and the dog",
    "blue sky",
]
NAMES = ["a", "b", "c", "a", "b", "b", "c"]
CHOICES = ["positive", "not good", "true"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {v: make_lively(tmp_path_factory.mktemp("model"), v) for v in VARIANTS}


@pytest.fixture(scope="module")
def models(folders):
    return {variant: load_model(str(folder)) for variant, folder in folders.items()}


def predictor_of(model, *names, **options):
    options = {"devices": 1, **options}
    return Predictor(model, {name: PROMPTS[name] for name in names}, **options)


def compilations(function):
    """How many times the function compiles something."""
    counted = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            counted.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(counted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_mixed_prompts(models, variant):
    model = models[variant]
    mixed = predictor_of(model, "a", "b", "c")
    scores = mixed.score(TEXTS, CHOICES, NAMES)
    answers = mixed.generate(TEXTS, NAMES, max_new_tokens=4)
    assert scores.dtype == np.float32
    assert scores.shape == (len(TEXTS), len(CHOICES))
    assert len(answers) == len(TEXTS)
    assert len(set(answers)) > 3
    for name in PROMPTS:
        alone = predictor_of(model, name)
        alone_scores = alone.score(TEXTS, CHOICES)
        alone_answers = alone.generate(TEXTS, max_new_tokens=4)
        for i, own in enumerate(NAMES):
            if own == name:
                np.testing.assert_allclose(scores[i], alone_scores[i], atol=1e-5, rtol=0)
                assert answers[i] == alone_answers[i]
        others = np.asarray([own != name for own in NAMES])
        assert np.abs(scores - alone_scores)[others].max() > 0.1  # the prompts are not all one


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_scores_are_those_of_the_language_model(models, variant):
    """From text to number: the tokens, the prompt, the sum over a choice's tokens."""
    model = models[variant]
    text = TEXTS[2]
    scores = predictor_of(model, "a", "b").score([text], CHOICES, "b")
    (ids,), _ = encode_inputs([text], model.tokenizer, model.config)
    choice = encode_choices(CHOICES, model.tokenizer, model.config)[1]
    assert len(choice) == 2
    vectors = PROMPTS["b"].vectors
    if model.is_encoder_decoder:
        assert ids[-1] == 1  # </s>
        decoder_ids = [[model.config.decoder_start_id, choice[0]]]
        logits = model.logits([ids], None, decoder_ids, vectors)[0]
    else:
        logits = model.logits([ids + choice], prompt=vectors)[0, len(ids) - 1 : -1]
    logits = np.asarray(logits, np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = log_probs[0, choice[0]] + log_probs[1, choice[1]]
    np.testing.assert_allclose(scores[0, 1], expected, atol=2e-5)


def test_neither_batch_size_nor_order_matters(models):
    model = models["gpt2"]
    whole = predictor_of(model, "a", "b", "c", batch_size=16)
    parts = predictor_of(model, "a", "b", "c", batch_size=2)
    scores = whole.score(TEXTS, CHOICES, NAMES)
    np.testing.assert_allclose(parts.score(TEXTS, CHOICES, NAMES), scores, atol=1e-5, rtol=0)
    reverse = whole.score(TEXTS[::-1], CHOICES, NAMES[::-1])
    np.testing.assert_allclose(reverse[::-1], scores, atol=1e-5, rtol=0)
    answers = whole.generate(TEXTS, NAMES, max_new_tokens=4)
    assert parts.generate(TEXTS, NAMES, max_new_tokens=4) == answers
    assert whole.generate(TEXTS[::-1], NAMES[::-1], max_new_tokens=4)[::-1] == answers


def test_names(models):
    model = models["gpt2"]
    single = predictor_of(model, "a")
    scores = single.score(TEXTS[:2], CHOICES)
    for names in ("a", ["a", "a"], ("a", "a")):
        np.testing.assert_array_equal(single.score(TEXTS[:2], CHOICES, names), scores)
    several = predictor_of(model, "a", "b")
    for call in (
        lambda names: several.score(TEXTS[:2], CHOICES, names),
        lambda names: several.generate(TEXTS[:2], names),
    ):
        with pytest.raises(UserError, match=r"several prompts \(a, b\)"):
            call(None)
        with pytest.raises(UserError, match="no prompt 'c'; this predictor has a, b"):
            call("c")
        with pytest.raises(UserError, match="no prompt 'd'"):
            call(["a", "d"])
        for names in (["a"], ["a", "b", "a"], []):
            with pytest.raises(UserError, match=f"2 texts but {len(names)} prompts"):
                call(names)


def test_texts_as_token_ids(models):
    model = models["gpt2"]
    predictor = predictor_of(model, "a", "b", "c")
    ids, _ = encode_inputs(TEXTS, model.tokenizer, model.config)
    np.testing.assert_array_equal(
        predictor.score(ids, CHOICES, NAMES), predictor.score(TEXTS, CHOICES, NAMES)
    )
    for bad in ([], [model.config.vocab_size], [-1], ["a"]):
        with pytest.raises(UserError, match=r"Input 1 \(counted from 0\) is no text and no ids"):
            predictor.score([ids[0], bad], CHOICES, "a")


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_no_texts(models, variant):
    predictor = predictor_of(models[variant], "a")
    assert predictor.generate([]) == []
    assert predictor.score([], CHOICES).shape == (0, len(CHOICES))


def test_a_prompt_is_checked_before_the_weights_are_read(models, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelFiles, "load", lambda *_: pytest.fail("the weights were read"))
    SoftPrompt(jnp.zeros((2, 5))).save(tmp_path / "narrow")
    with pytest.raises(UserError, match="The prompt is 5 wide"):
        Predictor.load(models["gpt2"].name, {"narrow": tmp_path / "narrow"})
    with pytest.raises(UserError, match="batch_size is 0; it must be at least 1"):
        Predictor.load(models["gpt2"].name, {}, batch_size=0)


def test_mistakes(models):
    model = models["gpt2"]
    predictor = predictor_of(model, "a")
    for max_new_tokens in (0, -1):
        with pytest.raises(UserError, match="must be at least 1"):
            predictor.generate(TEXTS, max_new_tokens=max_new_tokens)
    for call in (predictor.generate, lambda texts: predictor.score(texts, CHOICES)):
        with pytest.raises(UserError, match="give a list of strings"):
            call("the movie")
        with pytest.raises(UserError, match=r"Input 1 \(counted from 0\) is ''"):
            call(["the movie", ""])
        with pytest.raises(UserError, match="reads 512 at most; shorten the texts"):
            call(["the " * 510])
    with pytest.raises(UserError, match="no choices"):
        predictor.score(TEXTS, [])
    with pytest.raises(UserError, match="same tokens"):
        predictor.score(TEXTS, ["good", "good "])
    with pytest.raises(UserError, match="give a list of strings"):
        predictor.score(TEXTS, "good")
    with pytest.raises(UserError, match="no prompts; add"):
        Predictor(model).score(TEXTS, CHOICES)
    with pytest.raises(UserError, match="asked for 9 devices, but this machine has 8"):
        predictor_of(model, "a", devices=9)
    with pytest.raises(UserError, match="no prompt 'z'"):
        predictor.remove("z")
    for options, message in (
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"beams": 0}, "beams is 0"),
        ({"beams": 2, "temperature": 1.0}, "leave out beams"),
        ({"beams": 2, "stop": ["."]}, "leave out beams"),
        ({"stop": "."}, "give a list of strings"),
        ({"stop": [""]}, "not empty"),
        ({"seed": -1}, "seed is -1"),
        ({"beams": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": 0.5}, "give 2 beams or more"),
    ):
        with pytest.raises(UserError, match=message):
            predictor.generate(TEXTS, **options)
    for numbers in ([0] * 6 + [2**31], [-1] + [0] * 6):
        with pytest.raises(UserError, match=r"not at least 0 and below 2\*\*31"):
            predictor.generate(TEXTS, numbers=numbers)
    with pytest.raises(UserError, match="batch_size is 0"):
        predictor_of(models["t5"], "a", batch_size=0)
    with pytest.raises(UserError, match="7 texts but 1 numbers"):
        predictor.generate(TEXTS, temperature=1.0, numbers=[3])
    with pytest.raises(UserError, match="7 texts but 2 lists of choices"):
        predictor.score(TEXTS, [CHOICES, CHOICES])
    with pytest.raises(UserError, match="give lists of strings"):
        predictor.score(TEXTS[:2], [CHOICES, "good"])
    with pytest.raises(UserError, match=r"12 wide.*is 32 wide"):
        Predictor(model, {"a": PROMPTS["a"], "narrow": SoftPrompt(jnp.zeros((3, 12)))})


def test_the_longest_text_that_gpt2_reads(models):
    """Prompt (6), text and answer fill its 512 positions."""
    predictor = predictor_of(models["gpt2"], "a")
    assert len(predictor.generate(["the " * 504], max_new_tokens=2)) == 1
    with pytest.raises(UserError, match="513 tokens together"):
        predictor.generate(["the " * 505], max_new_tokens=2)


def test_each_text_is_checked_against_its_own_choices(folders):
    """40 positions for prompt, text and choice; the longest of each do not come together."""
    model = load_model(str(make_lively(folders["gpt2"].parent / "short", "gpt2", n_positions=40)))
    predictor = predictor_of(model, "a", "b")
    texts = ["good " * 33, "bad", "good " * 20]
    each = [["a", "is"], ["good " * 30, "bad"], ["not good", "the very bad film " * 4]]
    scores = predictor.score(texts, each, ["a", "b", "b"], content_free="bad")
    for text, choices, name, own in zip(texts, each, "abb", scores, strict=True):
        alone = predictor_of(model, name).score([text], choices, content_free="bad")
        np.testing.assert_allclose(own, alone[0], atol=2e-5, rtol=0)
    with pytest.raises(UserError, match="41 tokens together"):
        predictor.score(texts, [["a", "not good"], *each[1:]], ["a", "b", "b"])


@pytest.mark.parametrize("options", [{}, {"beams": 2}, {"stop": ["~"]}])
def test_padding_may_have_the_id_of_a_word(folders, options):
    """An answer ends at its end of sequence, whatever fills the rest of its row."""
    model = load_model(str(folders["gpt2"]))
    encoded, _ = encode_inputs(TEXTS, model.tokenizer, model.config)
    inputs, mask = pad(encoded)
    batch = {"inputs": inputs, "input_mask": mask}
    ids = np.asarray(greedy(model.module, batch, PROMPTS["a"].vectors, 6))
    answers = []
    for pad_id in (1, encode_choices(["good", "bad"], model.tokenizer, model.config)[0][0]):
        # A token in the midst of the first answer ends all answers now.
        ending = dataclasses.replace(model.config, eos_ids=(int(ids[0, 2]),), pad_id=pad_id)
        model.config = model.module.config = ending
        answers.append(predictor_of(model, "a").generate(TEXTS, max_new_tokens=6, **options))
    assert answers[0] == answers[1]
    if not options.get("beams"):
        end = ids[0].tolist().index(ids[0, 2])
        assert answers[1][0] == model.tokenizer.decode(ids[0, :end]).strip()


def test_prompts_come_and_go_without_compiling(models):
    """As long as there is a free place of their length; else the bank grows."""
    model = models["mistral"]
    predictor = predictor_of(model, "a", "b")
    expected = predictor_of(model, "a", "b", "c").score(TEXTS, CHOICES, NAMES)

    def score(names):
        return predictor.score(TEXTS, CHOICES, names)

    before = score(["a", "b", "b", "a", "b", "b", "b"])
    compiled = compilations(lambda: predictor.add("c", PROMPTS["c"]))
    compiled += compilations(lambda: np.testing.assert_array_equal(score(NAMES), expected))
    assert compiled == 0
    predictor.remove("a")
    with pytest.raises(UserError, match="no prompt 'a'; this predictor has b, c"):
        score(NAMES)

    def again():  # the same prompt under another name, in the place that is free again
        predictor.add("new", PROMPTS["a"])
        predictor.add("c", PROMPTS["c"])  # replaced by itself
        renamed = ["new" if name == "a" else name for name in NAMES]
        np.testing.assert_array_equal(score(renamed), expected)

    assert compilations(again) == 0

    longer = SoftPrompt(jnp.asarray(random_prompt(9, 5)))
    predictor.add("longer", longer)
    for i in range(4):
        predictor.add(f"more {i}", PROMPTS["b"])
    assert list(predictor.prompts) == ["b", "c", "new", "longer", *(f"more {i}" for i in range(4))]
    renamed = ["new" if name == "a" else name for name in NAMES]
    np.testing.assert_allclose(score(renamed), expected, atol=1e-5, rtol=0)
    alone = Predictor(model, {"longer": longer}, devices=1)
    np.testing.assert_allclose(
        predictor.score(TEXTS[:2], CHOICES, "longer"),
        alone.score(TEXTS[:2], CHOICES),
        atol=1e-5,
        rtol=0,
    )
    assert before.shape == expected.shape
    predictor.remove("more 3")
    assert compilations(lambda: predictor.add("last", PROMPTS["b"])) == 0  # nor once it has grown


@pytest.mark.parametrize("variant", ["t5", "mistral"])
def test_eight_devices_answer_as_one(models, variant):
    one = predictor_of(models[variant], "a", "b", "c")
    eight = predictor_of(models[variant], "a", "b", "c", devices=None)
    scores = one.score(TEXTS, CHOICES, NAMES)
    np.testing.assert_allclose(eight.score(TEXTS, CHOICES, NAMES), scores, atol=1e-5, rtol=0)
    for options in ({}, {"temperature": 0.7, "seed": 3}, {"beams": 2}):
        answers = one.generate(TEXTS, NAMES, max_new_tokens=4, **options)
        assert eight.generate(TEXTS, NAMES, max_new_tokens=4, **options) == answers


def test_choices_of_each_text_s_own(models):
    predictor = predictor_of(models["gpt2"], "a", "b", "c")
    each = [CHOICES, ["good", "bad"], ["the cat", "a dog", "blue", "true"]]
    scores = predictor.score(TEXTS[:3], each, NAMES[:3])
    assert [row.shape for row in scores] == [(3,), (2,), (4,)]
    for i, choices in enumerate(each):
        alone = predictor.score([TEXTS[i]], choices, NAMES[i])
        np.testing.assert_allclose(scores[i], alone[0], atol=1e-5, rtol=0)
    assert predictor.score([], []).shape == (0, 0)


@pytest.mark.parametrize("own", [False, True])
def test_five_to_eight_choices_are_compiled_once(models, own):
    predictor = predictor_of(models["gpt2"], "a", "b", "c")
    words = ["the", "movie", "is", "good", "bad", "film", "blue", "sky"]
    texts = TEXTS[:3]

    def score(choices, **options):
        found = predictor.score(texts, [choices] * 3 if own else choices, NAMES[:3], **options)
        assert [row.shape for row in found] == [(len(choices),)] * 3
        return np.asarray(found)

    expected = score(words)
    for count in (5, 6, 7):
        found = []
        assert compilations(lambda: found.append(score(words[:count]))) == 0  # noqa: B023
        np.testing.assert_allclose(found[0], expected[:, :count], atol=1e-5, rtol=0)
        assert (found[0] < 0).all()  # padding has 0, and would win
        calibrated = score(words[:count], content_free="the question", per_token=True)
        assert np.isfinite(calibrated).all()


def test_choices_that_fill_the_positions(folders):
    """40 positions: prompt (6), text (1) and choice (33), which is not padded to 64."""
    model = load_model(str(make_lively(folders["gpt2"].parent / "full", "gpt2", n_positions=40)))
    predictor = predictor_of(model, "a")
    longest, short = " ".join(["good", "bad"] * 16 + ["good"]), "not bad"
    found = predictor.score(["the"], [longest, short])
    for place, choice in enumerate((longest, short)):
        alone = predictor.score(["the"], [choice])
        np.testing.assert_allclose(found[:, place], alone[:, 0], rtol=1e-6)
    with pytest.raises(UserError, match="41 tokens together"):
        predictor.score(["the"], [longest + " bad", short])


def test_scores_per_token_and_beside_a_content_free_text(models):
    model = models["gpt2"]
    predictor = predictor_of(model, "a", "b", "c")
    scores = predictor.score(TEXTS, CHOICES, NAMES)
    lengths = [len(ids) for ids in encode_choices(CHOICES, model.tokenizer, model.config)]
    assert len(set(lengths)) > 1
    per_token = predictor.score(TEXTS, CHOICES, NAMES, per_token=True)
    np.testing.assert_allclose(per_token, scores / np.float32(lengths)[None], rtol=1e-6)
    calibrated = predictor.score(TEXTS, CHOICES, NAMES, content_free="the question")
    for i, name in enumerate(NAMES):
        base = predictor.score(["the question"], CHOICES, name)[0]
        np.testing.assert_allclose(calibrated[i], scores[i] - base, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_what_is_drawn_depends_on_seed_and_text_number_only(models, variant):
    options = {"max_new_tokens": 6, "temperature": 1.5, "top_k": 20, "top_p": 0.95}
    whole = predictor_of(models[variant], "a", "b", "c")
    parts = predictor_of(models[variant], "a", "b", "c", batch_size=2)
    drawn = whole.generate(TEXTS, NAMES, seed=1, **options)
    assert parts.generate(TEXTS, NAMES, seed=1, **options) == drawn
    assert whole.generate(TEXTS[:3], NAMES[:3], seed=1, **options) == drawn[:3]
    assert whole.generate(TEXTS, NAMES, seed=2, **options) != drawn
    part = whole.generate(TEXTS[2:4], NAMES[2:4], seed=1, numbers=[2, 3], **options)
    assert part == drawn[2:4]
    # Another temperature compiles nothing.
    hotter = options | {"temperature": 3.0, "top_p": 0.5}
    assert compilations(lambda: whole.generate(TEXTS, NAMES, seed=5, **hotter)) == 0


@pytest.mark.parametrize("variant", ["t5", "mistral"])
def test_streaming_and_stop_strings(models, variant):
    predictor = predictor_of(models[variant], "a", "b", "c")
    whole = predictor.generate(TEXTS, NAMES, max_new_tokens=10)
    told = {}
    streamed = predictor.generate(
        TEXTS,
        NAMES,
        max_new_tokens=10,
        on_text=lambda i, piece: told.setdefault(i, []).append(piece),
    )
    assert streamed == whole
    assert {i: "".join(pieces).strip() for i, pieces in told.items()} == {
        i: text for i, text in enumerate(whole) if text
    }
    assert max(map(len, told.values())) > 1  # it came in pieces
    # A word that some answer has inside ends that answer before it.
    stop = next(text.split()[2] for text in whole if len(text.split()) > 3)
    expected = [text.split(stop)[0].strip() for text in whole]
    assert expected != whole
    assert predictor.generate(TEXTS, NAMES, max_new_tokens=10, stop=[stop]) == expected
    told.clear()
    predictor.generate(
        TEXTS,
        NAMES,
        max_new_tokens=10,
        stop=[stop],
        on_text=lambda i, piece: told.setdefault(i, []).append(piece),
    )
    assert all("".join(pieces).strip() == expected[i] for i, pieces in told.items())


def test_load(folders, models, tmp_path):
    for name in ("a", "b"):
        PROMPTS[name].save(tmp_path / name)
    paths = {"a": tmp_path / "a", "b": str(tmp_path / "b")}
    predictor = Predictor.load(str(folders["gpt2"]), paths, devices=1)
    assert predictor.model.module.embedding[...].dtype == jnp.float32
    ours = predictor_of(models["gpt2"], "a", "b")
    np.testing.assert_array_equal(
        predictor.score(TEXTS[:2], CHOICES, ["a", "b"]), ours.score(TEXTS[:2], CHOICES, ["a", "b"])
    )
    half = Predictor.load(str(folders["gpt2"]), paths, "bfloat16", devices=1)
    assert half.model.module.embedding[...].dtype == jnp.bfloat16
    scores = half.score(TEXTS[:2], CHOICES, ["a", "b"])
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_load_warns_of_a_prompt_for_other_weights(folders, models, tmp_path):
    model = models["gpt2"]
    for name, fingerprint in (("ours", model.fingerprint), ("theirs", "0" * 16)):
        card = {"model": "tiny", "model_fingerprint": fingerprint}
        SoftPrompt(PROMPTS["a"].vectors, card).save(tmp_path / name)
    Predictor.load(str(folders["gpt2"]), {"a": tmp_path / "ours"}, devices=1)  # without a warning
    paths = {name: tmp_path / name for name in ("ours", "theirs")}
    message = r"^prompt theirs was trained on tiny with other weights than those of "
    with pytest.warns(UserWarning, match=message) as told:
        Predictor.load(str(folders["gpt2"]), paths, devices=1)
    assert len(told) == 1
    assert told[0].filename == __file__


def test_a_missing_prompt_is_told_before_the_model_is_looked_for(tmp_path):
    with pytest.raises(UserError, match="There is no prompt in"):
        Predictor.load("/no/such/model", {"a": tmp_path / "absent"})
