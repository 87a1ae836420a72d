"""Turns a finished run of tools/pretrain_family.py into a model of the package, with its card.

python tools/ship_family.py t5-nano [OUTPUT]

Writes OUTPUT (softprompt_jax/models/pretrained/t5-nano): the LM-adapted weights in bfloat16,
config.json, the tokenizer, curve.jsonl, corpus.json (the manifest), and README.md with what was
measured of these very weights on corpus/validation.txt: perplexity of continuations beside a
unigram and a trigram model of the same training text, and texts that it goes on with. Run it where
tools/pretrain_family.py ran.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from softprompt_jax.files import write_text
from softprompt_jax.inference import decoding
from softprompt_jax.inference.sampling import Sampler, row_keys
from softprompt_jax.inference.scoring import target_log_likelihoods
from softprompt_jax.models import LanguageModel, load_model, save_model
from softprompt_jax.models.families import parameter_count
from softprompt_jax.pretraining.corpus import read_corpus
from softprompt_jax.pretraining.examples import PrefixLM
from softprompt_jax.pretraining.family import GROWN, lm_adaptation, span_corruption
from softprompt_jax.pretraining.ngrams import NGrams

ROWS = 512  # validation texts
BATCH = 32
SAMPLES = 6
TEMPERATURE, TOP_P, NEW_TOKENS = 0.8, 0.9, 40


def perplexities(model: LanguageModel, name: str) -> dict[str, float]:
    """Of the model and of n-grams, on the same tokens: continuations without their EOS."""
    corpus = lm_adaptation(name).corpus
    eos_id = model.config.eos_ids[0]
    cache = Path(corpus.cache_dir or "")
    train, held_out = (
        read_corpus(corpus, split, model.tokenizer, eos_id, cache)
        for split in ("train", "validation")
    )
    objective = PrefixLM(corpus, eos_id)
    texts = held_out[: ROWS * objective.length].reshape(ROWS, objective.length)
    # All are cut in the middle, so that they make batches of one shape.
    cut = objective.length // 2
    end = np.full((ROWS, 1), eos_id)
    inputs = np.concatenate([texts[:, :cut], end], axis=1).astype(np.int32)
    targets = texts[:, cut:].astype(np.int32)
    score = jax.jit(lambda batch: target_log_likelihoods(model.module, batch, None))
    total = 0.0
    for at in range(0, ROWS, BATCH):
        rows = slice(at, at + BATCH)
        batch = {"inputs": inputs[rows], "targets": targets[rows]}
        batch |= {f"{key[:-1]}_mask": np.ones(x.shape, bool) for key, x in batch.items()}
        total += float(np.asarray(score(batch), np.float64).sum())
    ngrams = NGrams(train, model.config.vocab_size)
    trigram = [ngrams.trigram_log_probs(text[cut - 2 :]) for text in texts]
    count = targets.size
    return {
        "this model": float(np.exp(-total / count)),
        "trigrams (Kneser-Ney)": float(np.exp(-np.sum(trigram) / count)),
        "unigrams": float(np.exp(-ngrams.unigram_log_probs(targets).mean())),
    }


def samples(model: LanguageModel, name: str) -> list[tuple[str, str]]:
    """Beginnings of validation texts, and how the model goes on."""
    lines = Path(lm_adaptation(name).corpus.validation_files[0]).read_text().splitlines()
    long = [line for line in lines if len(line.split()) > 40]
    chosen = [long[i] for i in np.random.default_rng(0).choice(len(long), SAMPLES, replace=False)]
    starts = [" ".join(line.split()[:24]) for line in chosen]
    told = []
    for number, start in enumerate(starts):
        ids = np.array([model.tokenizer(start)["input_ids"]], np.int32)
        batch = {"inputs": ids, "input_mask": np.ones(ids.shape, bool)}
        sampler = Sampler(row_keys(0, jnp.array([number])), TEMPERATURE, None, TOP_P)
        out = decoding.generate(model.module, batch, None, NEW_TOKENS, sampler)
        told.append((start, model.tokenizer.decode(np.asarray(out[0]), skip_special_tokens=True)))
    return told


def curve(name: str) -> str:
    """Validation perplexity by step of both runs, a JSON object a line."""
    found = []
    for config in (span_corruption(name), lm_adaptation(name)):
        for line in (Path(config.workdir) / "metrics.jsonl").read_text().splitlines():
            told = json.loads(line)
            if "validation/perplexity" in told:
                told = {"step": told["step"], "perplexity": told["validation/perplexity"]}
                found.append(json.dumps({"objective": config.corpus.objective, **told}))
    return "\n".join(found) + "\n"


def card(name: str, model: LanguageModel, parameters: int) -> str:
    """The README of the model."""
    measured = perplexities(model, name)
    table = "\n".join(f"| {what} | {value:.1f} |" for what, value in measured.items())
    texts = "\n".join(f"- {start} **{told}**" for start, told in samples(model, name))
    runs = [Path(config.workdir) for config in (span_corruption(name), lm_adaptation(name))]
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    config = model.config
    origin, before = "pre-trained from random weights", ""
    if name in GROWN:
        origin = f"grown from {GROWN[name]} and pre-trained further"
        before = (
            f"{GROWN[name]} of this package made wider,\nwhich leaves what it computes as it "
            "was (softprompt_jax/pretraining/growth.py); then\n"
        )
    return f"""# {name}

A T5 1.1 of {parameters / 1e6:.1f} million parameters ({config.n_layers} + {config.n_decoder_layers}
layers, d_model {config.d_model}, d_ff {config.d_ff}, {config.n_heads} heads of {config.head_width},
{config.vocab_size:,} rows of vocabulary), {origin} for softprompt_jax and
LM-adapted. It is for learning, tests and small experiments with prompt tuning on a laptop; it knows
little, and what it says of the world is not to be relied on. English only.

    softprompt_jax.load_model("{name}")

## How it was made

`python tools/pretrain_family.py {name}`: {before}{results[0]["steps"]:,} steps of span corruption
({results[0]["seconds"] / 60:.0f} minutes on two CPU cores, beside other work), then
{results[1]["steps"]:,} of prefix language modelling ({results[1]["seconds"] / 60:.0f} minutes), of
32 texts of 256 tokens each (softprompt_jax/pretraining/family.py). Weights are bfloat16; the best
evaluation of LM adaptation is kept (step {results[1]["best_step"]:,}). Perplexity by step:
curve.jsonl.

The text: 97 MB of English from packages with free licences, listed with their licences and counts
in corpus.json, without the texts that this project measures on. Much of it is dictionaries
and religious books, old ones: the model has their words and their views of people.

## Measured

`python tools/ship_family.py {name}`, on {ROWS} texts of 254 tokens of the held-out part of that
corpus: perplexity of the second half, given the first, for each token.

| | perplexity |
|---|---|
{table}

The n-gram models are of the same training text and tokens. The held-out part is of the same books
as the training text, so this says nothing about other kinds of text.

Going on with the beginnings of held-out texts (temperature {TEMPERATURE}, top-p {TOP_P}, seed 0,
{NEW_TOKENS} tokens, none left out):

{texts}
"""


def make_compact(path: Path) -> None:
    """Writes a JSON file anew without what only people need: half of a tokenizer's."""
    told = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n")


def main(arguments: list[str]) -> int:
    """Writes the folder; returns the exit status."""
    name = arguments[0]
    folder = Path(
        arguments[1] if len(arguments) > 1 else f"softprompt_jax/models/pretrained/{name}"
    )
    best = str(Path(lm_adaptation(name).workdir) / "best")
    for told in ("README.md", "curve.jsonl", "corpus.json"):  # a model's folder has none of them
        (folder / told).unlink(missing_ok=True)
    save_model(folder, load_model(best, dtype="bfloat16"))
    make_compact(folder / "tokenizer.json")
    shipped = load_model(str(folder))  # what is measured is what is shipped
    parameters = parameter_count(shipped.config)
    write_text(folder / "README.md", card(name, shipped, parameters))
    write_text(folder / "curve.jsonl", curve(name))
    write_text(folder / "corpus.json", Path("corpus/manifest.json").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
