"""Pre-training from random weights, LM adaptation of what came of it, and what is left on disk."""

import json

import numpy as np
import pytest
from lively_models import load_torch
from small_runs import changed, checkpoint_bits, metrics_lines
from tiny_models import WORDS, make_tiny

import softprompt_jax as sp
from softprompt_jax.config import ModelOptions, OptimizerOptions, ParallelOptions, TrainOptions
from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import CorpusOptions, PretrainConfig
from softprompt_jax.pretraining.run import pretrain


def write_text(path, documents, seed):
    """Sentences in which every word follows from the one before it."""
    generator = np.random.default_rng(seed)
    follower = dict(zip(WORDS, np.roll(WORDS, 7), strict=True))
    lines = []
    for _ in range(documents):
        word = generator.choice(WORDS)
        sentence = []
        for _ in range(generator.integers(20, 60)):
            sentence.append(word)
            word = follower[word]
        lines += [" ".join(sentence), ""]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    model = make_tiny(folder / "t5", num_layers=1, num_decoder_layers=1)
    return PretrainConfig(
        model=ModelOptions(name=str(model)),
        corpus=CorpusOptions(
            train_files=(write_text(folder / "train.txt", 200, 0),),
            validation_files=(write_text(folder / "validation.txt", 20, 1),),
            input_length=24,
            validation_examples=16,
            cache_dir=str(folder / "cache"),
        ),
        optimizer=OptimizerOptions(
            name="adafactor", learning_rate=0.1, warmup_steps=10, schedule="inverse_sqrt"
        ),
        train=TrainOptions(
            method="model_tuning",
            steps=60,
            batch_size=16,
            evaluate_every=30,
            keep_steps=(0, 30),
            log_every=10,
        ),
        parallel=ParallelOptions(devices=1),
        from_scratch=True,
        workdir=str(folder / "run"),
        seed=1,
    )


@pytest.fixture(scope="module")
def result(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "1")
        return pretrain(config)


@pytest.mark.slow
def test_it_learns_and_keeps_models(config, result):
    perplexity = {
        line["step"]: line["validation/perplexity"]
        for line in metrics_lines(config.workdir)
        if "validation/perplexity" in line
    }
    assert perplexity[60] < 0.9 * perplexity[30] < 0.05 * 128
    assert result.metrics["validation/perplexity"] == perplexity[60]
    start = sp.load_model(str(result.workdir / "kept" / "0"))
    assert start.fingerprint != sp.load_model(config.model.name).fingerprint  # from scratch
    middle = sp.load_model(str(result.workdir / "kept" / "30"))
    best = sp.load_model(str(result.workdir / "best"))
    assert len({start.fingerprint, middle.fingerprint, best.fingerprint}) == 3


@pytest.mark.slow
def test_transformers_reads_what_came_of_it(result):
    torch = pytest.importorskip("torch")
    ids = np.array([[5, 9, 13, 1], [40, 2, 7, 1]])
    decoder_ids = np.array([[0, 7, 9], [0, 30, 31]])
    folder = str(result.workdir / "best")
    ours = sp.load_model(folder).logits(ids, decoder_input_ids=decoder_ids)
    with torch.no_grad():
        theirs = load_torch(folder)(
            input_ids=torch.from_numpy(ids), decoder_input_ids=torch.from_numpy(decoder_ids)
        ).logits
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_lm_adaptation_goes_on_with_it(config, result, tmp_path):
    adapted = changed(
        config,
        model__name=str(result.workdir / "best"),
        corpus__objective="prefix_lm",
        corpus__prefix_lengths=2,
        from_scratch=False,
        workdir=str(tmp_path / "run"),
        train__evaluate_first=True,
    )
    pretrain(adapted)
    perplexity = [
        line["validation/perplexity"]
        for line in metrics_lines(adapted.workdir)
        if "validation/perplexity" in line
    ]
    assert perplexity[-1] < 0.3 * perplexity[0]


@pytest.mark.slow
def test_it_resumes_to_the_same_bits(config, result, tmp_path):
    part = changed(config, workdir=str(tmp_path / "run"), train__steps=40)
    pretrain(part)
    pretrain(changed(part, train__steps=60))
    assert checkpoint_bits(tmp_path / "run", 60) == checkpoint_bits(result.workdir, 60)


def test_a_tokenizer_of_its_own(config, tmp_path):
    big = make_tiny(tmp_path / "big", words=[f"w{i}" for i in range(300)])
    with pytest.raises(UserError, match="choose another --tokenizer"):
        pretrain(changed(config, tokenizer=str(big)))
    ends_otherwise = make_tiny(tmp_path / "llama", family="llama")
    with pytest.raises(UserError, match=r"ends a text by the id 2, but .* by 1; choose another"):
        pretrain(changed(config, tokenizer=str(ends_otherwise)))


def test_the_model_is_kept_with_the_tokenizer_it_was_trained_with(config, tmp_path):
    other = make_tiny(tmp_path / "other", words=WORDS[::-1])
    result = pretrain(
        changed(
            config,
            from_scratch=False,
            tokenizer=str(other),
            workdir=str(tmp_path / "run"),
            train__steps=2,
            train__evaluate_every=2,
            train__keep_steps=(0,),
        )
    )
    for kept in (result.workdir / "best", result.workdir / "kept" / "0"):
        ids = sp.load_model(str(kept)).tokenizer("good film")["input_ids"]
        assert ids == sp.load_model(str(other)).tokenizer("good film")["input_ids"]
        assert ids != sp.load_model(config.model.name).tokenizer("good film")["input_ids"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train__method": "prompt_tuning"}, "leave out --train.method"),
        ({"corpus__tfds": "c4/en"}, "one of them"),
        ({"corpus__train_files": ()}, "one of them"),
        ({"corpus__validation_files": ()}, "--corpus.validation_files"),
        ({"corpus__tfds": "c4/en", "corpus__train_files": ()}, "a validation split of its own"),
        ({"corpus__data_dir": "data"}, "data_dir is of --corpus.tfds"),
        ({"corpus__prefix_lengths": 4}, "prefix_lengths is of --corpus.objective prefix_lm"),
        ({"corpus__objective": "prefix_lm", "corpus__noise_density": 0.3}, "span_corruption; give"),
        ({"corpus__train_files": ("nowhere.txt",)}, "nowhere.txt"),
        ({"corpus__input_length": 8}, "at least 16"),
        ({"corpus__noise_density": 1.0}, "noise_density"),
        ({"corpus__mean_span_length": 0.5}, "mean_span_length"),
        ({"corpus__validation_examples": 0}, "validation_examples"),
        ({"corpus__objective": "prefix_lm"}, "prefix_lengths is 8; .* 1 to 6"),
        ({"optimizer__learning_rate": None, "optimizer__name": "adafactor"}, "learning rate"),
        ({"model__name": "smollm2-135m"}, "no T5"),
        ({"train__keep_steps": (-1,)}, "keep_steps"),
        ({"train__evaluate_examples": 5}, "no --train.evaluate_examples; .*validation_examples"),
        ({"train__max_shapes": 2}, "no --train.max_shapes; .*prefix_lengths"),
    ],
)
def test_mistakes(config, tmp_path, options, message):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=message):
        pretrain(changed(config, workdir=str(workdir), **options))
    assert not workdir.exists()


def test_json_round_trip(config):
    assert PretrainConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["corpus"]["input_length"] == 24
