"""What the prediction command answers, what it refuses, and how it says so."""

import io
import json
import os
import runpy
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt

from softprompt_jax.inference import answering
from softprompt_jax.inference.answering import Answerer
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.models import LanguageModel, load_model
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt

LABELS = {"sentiment": ["negative", "positive"], "truth": ["false", "true", "not good"], "free": []}
LENGTHS = {"sentiment": 5, "truth": 2, "free": 3}
ROWS = [
    {"text": "the movie was good", "prompt": "sentiment", "id": "a"},
    {"text": "is the sky blue", "prompt": "truth", "id": 2},
    {"text": "a story of", "prompt": "free"},
    {"text": "this is a very very awful film", "prompt": "sentiment"},
    {"text": "the cat", "prompt": "free", "choices": ["good", "bad", "very bad", "dog", "a"]},
    {"text": "the dog", "prompt": "truth", "choices": ["yes", "no"]},
    {"text": "in this context", "prompt": "free"},
]
WORDS = ["--max-new-tokens", "4", "--batch-size", "4", "--devices", "1"]


def save_prompts(folder, model, labels=LABELS, width=32):
    for seed, (name, own) in enumerate(labels.items()):
        card = {"model": str(model), "task": name, "labels": own}
        vectors = random_prompt(LENGTHS.get(name, 2), seed, width)
        SoftPrompt(jnp.asarray(vectors), card).save(folder / name)
    return ",".join(f"{name}={folder / name}" for name in labels)


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def place(request, tmp_path_factory):
    """A folder with a model and its prompts, and the value of --prompts."""
    folder = tmp_path_factory.mktemp("place")
    layers = {"t5": {}, "gpt2": {"n_layer": 1}}[request.param]
    model = make_lively(folder / "model", request.param, seed=1, **layers)
    return folder, save_prompts(folder, model)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Likewise, one family only."""
    folder = tmp_path_factory.mktemp("small")
    model = make_lively(folder / "model", "gpt2", n_layer=1, n_positions=64)
    return folder, save_prompts(folder, model)


@pytest.fixture
def run(monkeypatch, capfd):
    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.predict", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.predict", run_name="__main__")
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def write(path, *lines):
    """A file of rows and of lines as they are."""
    path.write_bytes(b"".join(map(line_of, lines)))
    return path


def line_of(line):
    return line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def check_answers(answers, rows, predictor, max_new_tokens=4):
    """Answers are those of each row alone."""
    assert [answer["line"] for answer in answers] == list(range(1, len(rows) + 1))
    for answer, row in zip(answers, rows, strict=True):
        choices = row.get("choices") or LABELS[row["prompt"]]
        assert answer["prompt"] == row["prompt"]
        assert answer.get("id") == row.get("id")
        assert ("id" in answer) == ("id" in row)
        if not choices:
            (text,) = predictor.generate([row["text"]], row["prompt"], max_new_tokens)
            assert set(answer) <= {"line", "id", "prompt", "prediction"}
            assert answer["prediction"] == text
            continue
        (scores,) = predictor.score([row["text"]], choices, row["prompt"])
        assert list(answer["scores"]) == choices
        np.testing.assert_allclose(list(answer["scores"].values()), scores, atol=2e-5)
        assert answer["prediction"] == choices[int(np.argmax(scores))]


def predictor_of(place):
    folder, prompts = place
    return Predictor.load(
        str(folder / "model"),
        dict(part.split("=") for part in prompts.split(",")),
        devices=1,
    )


def test_a_file_of_mixed_rows(place, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "1")
    rows = write(tmp_path / "rows.jsonl", *ROWS)
    output = tmp_path / "answers.jsonl"
    arguments = ["--prompts", place[1], "--input", rows, *WORDS]
    status, out, err = run(*arguments, "--output", output)
    assert (status, out, err) == (0, "", "")
    answers = lines_of(output.read_text())
    check_answers(answers, ROWS, predictor_of(place))
    assert len({str(answer["prediction"]) for answer in answers}) > 3
    # The same to standard output, and from standard input, one by one.
    status, out, _ = run(*arguments)
    assert status == 0
    assert out == output.read_text()
    status, out, _ = run("--prompts", place[1], *WORDS, stdin=rows.read_bytes())
    assert status == 0
    check_answers(lines_of(out), ROWS, predictor_of(place))


def test_bad_rows_between_good_ones(small, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "1")
    good = {"text": "the movie was good", "prompt": "sentiment"}
    free = {"text": "the movie was good", "prompt": "free"}
    fits, too_long = "good " * 20, "good " * 21
    lines = [
        good,
        b"{broken\n",
        {"text": too_long, "prompt": "sentiment", "id": "long"},
        {"text": fits, "prompt": "sentiment"},
        {"text": "a", "prompt": "nobody"},
        {"text": "a", "prompt": "free", "choices": ["good", " good"]},
        {"text": "a", "prompt": "free", "choices": ["good", "good bad"]},
        b"\n",
        b'{"text": "\xe9"}\n',
        free,
        {"text": 5, "prompt": "free"},
        {"text": "a", "prompt": "free", "choices": ["bad", "good " * 21]},
    ]
    rows = write(tmp_path / "rows.jsonl", *lines)
    arguments = ["--prompts", small[1], *WORDS, "--max-input-length", "20"]
    status, out, err = run(*arguments, "--input", rows)
    assert status == 3
    assert err == (
        "7 of 11 rows could not be answered and are error rows (lines 2, 3, 5, 6, 9, …).\n"
    )
    answers = lines_of(out)
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]
    assert [answer["line"] for answer in answers if "error" in answer] == [2, 3, 5, 6, 9, 11, 12]
    assert answers[2] == {
        "line": 3,
        "id": "long",
        "error": "The row's text has 21 tokens, but at most 20 are read; shorten it.",
    }
    assert "'good' and ' good' have the same tokens" in answers[5]["error"]
    assert answers[-1]["error"].startswith("A choice has 21 tokens, but at most 20 are read")
    # The good rows are answered as they are without the bad ones, near enough.
    assert answers[0]["scores"] == pytest.approx(
        lines_of(run(*arguments, stdin=line_of(good))[1])[0]["scores"], abs=2e-5
    )
    status, out, _ = run(*arguments, stdin=b"".join(map(line_of, lines)))
    assert status == 3
    assert [set(answer) for answer in lines_of(out)] == [set(answer) for answer in answers]
    errors = [answer["error"] for answer in answers if "error" in answer]
    assert [answer["error"] for answer in lines_of(out) if "error" in answer] == errors


def test_one_error_row_is_told_in_the_singular(small, run):
    status, out, err = run("--prompts", small[1], *WORDS, stdin=b"{}\n")
    assert status == 3
    assert err == "1 of 1 rows could not be answered and is an error row (line 1).\n"
    assert "has no text" in out


def test_texts_that_the_model_has_no_positions_for(small, run):
    # 64 positions: text, 3 of the prompt and 4 or 2 of the answer.
    rows = [
        {"text": "good " * 57, "prompt": "free"},
        {"text": "good " * 58, "prompt": "free"},
        {"text": "good " * 59, "prompt": "free", "choices": ["bad", "very bad"]},
        {"text": "good " * 60, "prompt": "free", "choices": ["bad", "very bad"]},
        {"text": "a", "prompt": "free", "choices": ["bad", "good " * 70]},
    ]
    data = b"".join(map(line_of, rows))
    status, out, _ = run("--prompts", small[1], *WORDS, stdin=data)
    assert status == 3
    answers = lines_of(out)
    assert ["error" in answer for answer in answers] == [False, True, False, True, True]
    assert "has 58 tokens, but at most 57 are read" in answers[1]["error"]
    assert "has 60 tokens, but at most 59 are read" in answers[3]["error"]
    assert "at most 0 are read" in answers[4]["error"]


def test_a_text_without_tokens_disturbs_no_other(tmp_path, run):
    model = make_lively(tmp_path / "model", "gpt2", n_layer=1)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    prompts = save_prompts(tmp_path, model, {"free": []})
    rows = write(tmp_path / "rows", {"text": "a"}, {"text": "\u200b"}, {"text": "\u200bgood"})
    status, out, _ = run("--prompts", prompts, "--input", rows, *WORDS)
    assert status == 3
    answers = lines_of(out)
    assert answers[1] == {"line": 2, "error": "The row's text has no tokens."}
    assert "prediction" in answers[0]
    assert "prediction" in answers[2]


def test_no_rows(small, run, tmp_path):
    rows, output = write(tmp_path / "rows", b"\n"), tmp_path / "out"
    status, out, _ = run("--prompts", small[1], "--input", rows, "--output", output)
    assert (status, out) == (0, "")
    assert output.read_bytes() == b""


def test_a_stopped_job_goes_on(small, run, tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "1")
    lines = [dict(ROWS[i % 7], id=i) for i in range(300)]
    lines[5], lines[200] = b"{broken\n", b"\n"
    rows, output = write(tmp_path / "rows", *lines), tmp_path / "out"
    arguments = ["--prompts", small[1], "--input", rows, *WORDS, "--top-k", "5"]
    _, whole, told = run(*arguments)
    answer, calls = Answerer.__call__, []

    def interrupted(self, rows):
        calls.append(len(rows))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(self, rows)

    monkeypatch.setattr(Answerer, "__call__", interrupted)
    status, out, _ = run(*arguments, "--output", output)
    assert (status, out, calls) == (130, "", [128, 128])
    assert not output.exists()
    for more in (
        ["--seed", "1"],
        ["--batch-size", "8"],
        ["--top-k", "6"],
        ["--dtype", "bfloat16"],
        ["--stop", "good"],
    ):
        status, _, err = run(*arguments, "--output", output, *more)
        assert status == 2
        assert "a job with other options" in err
    status, _, err = run(
        *("--prompts", small[1].replace("sentiment=", "feeling=")),
        *arguments[2:],
        *("--output", output),
    )
    assert status == 2
    before = rows.read_bytes()
    rows.write_bytes(before + line_of(ROWS[0]))
    status, _, err = run(*arguments, "--output", output)
    assert status == 2
    assert "rows" in err
    rows.write_bytes(before)
    with monkeypatch.context() as patch:  # other weights, in the same place
        patch.setattr(LanguageModel, "fingerprint", "0" * 16)
        status, _, err = run(*arguments, "--output", output)
    assert status == 2
    assert "a job with other options, rows, model" in err
    status, out, err = run(*arguments, "--output", output)
    assert (status, out) == (3, "")
    assert calls[2:] == [128, 43]
    assert err == "Going on after 128 rows.\n" + told
    assert "1 of 299 rows could not be answered and is an error row (line 6)" in told
    assert output.read_text() == whole
    status, _, err = run(*arguments, "--output", output)
    assert status == 2
    assert "is there already" in err


def test_scores_that_are_no_numbers_are_error_rows(small, run, tmp_path):
    card = {"model": str(small[0] / "model"), "labels": ["negative", "positive"]}
    SoftPrompt(jnp.full((2, 32), 3e38), card).save(tmp_path / "broken")
    rows = b"".join(map(line_of, [dict(ROWS[0], prompt="broken"), ROWS[0]]))
    prompts = f"{small[1]},broken={tmp_path / 'broken'}"
    status, out, _ = run("--prompts", prompts, *WORDS, stdin=rows)
    assert status == 3
    first, second = lines_of(out)
    assert first == {"line": 1, "id": "a", "error": "The scores are not finite."}
    assert "scores" in second


def test_a_target_prefix_is_said_and_not_told(small, run, tmp_path):
    """The prompt was trained to say it, so all choices are scored with it; no answer has it."""
    card = {"model": str(small[0] / "model"), "target_prefix": "very "}
    vectors = jnp.asarray(random_prompt(4, 7))
    labels = ["very bad", "very good"]
    SoftPrompt(vectors, card | {"labels": labels}).save(tmp_path / "labels")
    SoftPrompt(vectors, card | {"labels": []}).save(tmp_path / "free")
    prompts = f"labels={tmp_path / 'labels'},free={tmp_path / 'free'}"
    text = "the movie was"
    rows = [
        {"text": text, "prompt": "labels"},
        {"text": text, "prompt": "labels", "choices": ["good", "awful"]},
        {"text": text, "prompt": "free"},
    ]
    status, out, err = run("--prompts", prompts, *WORDS, stdin=b"".join(map(line_of, rows)))
    assert status == 0, err
    own, chosen, free = lines_of(out)
    predictor = Predictor.load(str(small[0] / "model"), {"it": tmp_path / "labels"}, batch_size=4)
    (expected,) = predictor.score([text], labels, "it")
    assert list(own["scores"]) == ["bad", "good"]
    np.testing.assert_allclose(list(own["scores"].values()), expected, atol=2e-5)
    assert own["prediction"] == ["bad", "good"][int(np.argmax(expected))]
    (expected,) = predictor.score([text], ["very good", "very awful"], "it")
    np.testing.assert_allclose(list(chosen["scores"].values()), expected, atol=2e-5)
    (written,) = predictor.generate([text], "it", 4)
    assert free["prediction"] == written.strip().removeprefix("very").strip()


def test_choices_that_would_take_all_memory(small, run, monkeypatch):
    monkeypatch.setattr(answering, "MOST_CHOICE_TOKENS", 8)
    many = {"text": "a", "prompt": "free", "choices": ["good", "bad", "dog", "cat", "a", "the sky"]}
    few = many | {"choices": ["good", "bad"]}
    status, out, _ = run("--prompts", small[1], *WORDS, stdin=line_of(many) + line_of(few))
    assert status == 3
    first, second = lines_of(out)
    assert "choices have 16 tokens, each padded to the longest, but at most 8" in first["error"]
    assert "scores" in second


def test_no_room_for_the_answers(small):
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "softprompt_jax.predict", "--prompts", small[1], *WORDS],
            input=line_of(ROWS[0]),
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert process.returncode == 2
    assert process.stderr == (
        b"error: The answers cannot be written to standard output (No space left on device); make "
        b"room.\n"
    )


def test_drawn_text(small, run, tmp_path):
    rows = write(tmp_path / "rows", *[{"text": "the movie", "prompt": "free"}] * 6)
    arguments = ["--prompts", small[1], "--input", rows, *WORDS, "--temperature", "3"]
    first, again = run(*arguments, "--seed", "5")[1], run(*arguments, "--seed", "5")[1]
    assert first == again
    assert len({row["prediction"] for row in lines_of(first)}) > 1
    assert run(*arguments, "--seed", "6")[1] != first
    # What is drawn depends on seed and line only, not on what is answered together.
    drawing = [*arguments[:2], *WORDS, "--temperature", "3", "--seed", "5"]
    assert run(*drawing, stdin=rows.read_bytes())[1] == first


def test_stop_strings_and_beams(small, run, tmp_path, monkeypatch):
    texts = ["the movie", "a story of", "in this context", "is it"]
    rows = write(tmp_path / "rows", *[{"text": text, "prompt": "free"} for text in texts])
    arguments = ["--prompts", small[1], "--input", rows, *WORDS, "--max-new-tokens", "6"]
    predictor = predictor_of(small)
    greedy = predictor.generate(texts, "free", 6)
    stop = [greedy[0][3], greedy[1].split()[-1]]
    stopped = predictor.generate(texts, "free", 6, stop=stop)
    assert stopped != greedy
    # Beams may well find what greedy decoding does, so that the options are looked at too.
    calls = []
    generate = Predictor.generate

    def told(*arguments, **options):
        calls.append({name: options[name] for name in ("beams", "length_penalty", "stop")})
        return generate(*arguments, **options)

    monkeypatch.setattr(Predictor, "generate", told)
    beams = predictor.generate(texts, "free", 6, beams=3, length_penalty=-2.0, stop=())
    for given, expected in (
        (["--stop", stop[0], "--stop", stop[1]], stopped),
        (["--beams", "3", "--length-penalty", "-2"], beams),
    ):
        status, out, _ = run(*arguments, *given)
        assert status == 0
        assert [answer["prediction"] for answer in lines_of(out)] == expected
    assert calls[1:] == [
        {"beams": 1, "length_penalty": 1.0, "stop": stop},
        {"beams": 3, "length_penalty": -2.0, "stop": []},
    ]


def test_other_weights_are_told(small, run, tmp_path):
    model = load_model(str(small[0] / "model"))
    card = {"model": model.name, "labels": []}
    for name, fingerprint in (("same", model.fingerprint), ("other", "0" * 16)):
        prompt = SoftPrompt(
            jnp.asarray(random_prompt(2)), card | {"model_fingerprint": fingerprint}
        )
        prompt.save(tmp_path / name)
    prompts = f"same={tmp_path / 'same'},other={tmp_path / 'other'}"
    _, _, err = run("--prompts", prompts, *WORDS, stdin=b"")
    assert err.startswith("warning: prompt other was trained on")
    assert len(err.splitlines()) == 1


def test_a_line_is_answered_before_the_next_is_read(small):
    process = subprocess.Popen(
        [sys.executable, "-m", "softprompt_jax.predict", "--prompts", small[1], *WORDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in (ROWS[0], b"{broken\n", ROWS[2]):
        process.stdin.write(line_of(line))
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert ("error" in answer) == (line == b"{broken\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err == b"1 of 3 rows could not be answered and is an error row (line 2).\n"


# ------------------------------------------------------------------------------- mistakes


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*_):
        pytest.fail("the weights were read")

    monkeypatch.setattr(ModelFiles, "load", refuse)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --prompts"),
        (["--prompts", "P", "--speed", "9"], "unrecognized arguments: --speed 9; see --help"),
        (["--prompts", "P", "--inp", "x"], "unrecognized arguments: --inp"),
        (["--prompts", "FOLDER/free"], "FOLDER/free'; write it as NAME=FOLDER,NAME=FOLDER"),
        (["--prompts", "P,"], "--prompts has the part ''"),
        (["--prompts", "=FOLDER/free"], "--prompts has the part"),
        (["--prompts", "P,free=FOLDER/truth"], "--prompts has 'free' twice"),
        (["--prompts", "free=FOLDER/nothing"], "There is no prompt in FOLDER/nothing"),
        (["--prompts", "free=~no-such-user/best"], "There is no prompt in ~no-such-user/best"),
        (["--prompts", "P", "--input", "FOLDER/nothing"], "The input FOLDER/nothing cannot be"),
        (["--prompts", "P", "--input", "FOLDER"], "The input FOLDER cannot be read"),
        (["--prompts", "P", "--input", "IN", "--output", "IN"], "is there already"),
        (["--prompts", "P", "--input", "IN", "--output", "IN/x"], "cannot be written"),
        (["--prompts", "P", "--output", "x"], "--output needs an --input file"),
        (["--prompts", "P", "--model", "FOLDER/nothing"], "FOLDER/nothing"),
        (["--prompts", "P", "--dtype", "float16"], "invalid choice: 'float16'"),
        (["--prompts", "P", "--devices", "99"], "--devices is 99, but this machine has"),
        (["--prompts", "P", "--devices", "0"], "--devices is 0"),
        (["--prompts", "P", "--fsdp", "0"], "--fsdp is 0; it must be at least 1."),
        (["--prompts", "P", "--fsdp", "3"], "data 2 x fsdp 3 x tensor 1 does not make up 8 dev"),
        (["--prompts", "P", "--layout", "pmap", "--fsdp", "8"], "or give --layout mesh."),
        (["--prompts", "P", "--batch-size", "0"], "--batch-size is 0; it must be at least 1."),
        (["--prompts", "P", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--prompts", "P", "--max-input-length", "0"], "--max-input-length is 0"),
        (["--prompts", "P", "--max-new-tokens", "62"], "Prompt free has 3 positions"),
        (["--prompts", "P", "--temperature", "0"], "temperature is 0.0; it must be above 0."),
        (["--prompts", "P", "--temperature", "nan"], "temperature is nan"),
        (["--prompts", "P", "--top-k", "0"], "--top-k is 0"),
        (["--prompts", "P", "--top-p", "2"], "top_p is 2.0"),
        (["--prompts", "P", "--seed", "-1"], "--seed is -1"),
        (["--prompts", "P", "--seed", str(2**31)], "it must be below 2**31"),
        (["--prompts", "P", "--beams", "0"], "--beams is 0; it must be at least 1."),
        (["--prompts", "P", "--beams", "2", "--stop", "x"], "leave out beams"),
        (["--prompts", "P", "--beams", "2", "--top-k", "2"], "leave out beams"),
        (["--prompts", "P", "--length-penalty", "2"], "give 2 beams or more"),
        (["--prompts", "P", "--beams", "2", "--length-penalty", "nan"], "it must be a finite"),
        (["--prompts", "P", "--stop", ""], "give a list of strings that are not empty"),
    ],
)
def test_mistakes(small, run, no_weights, tmp_path, arguments, message):
    rows = write(tmp_path / "in.jsonl", *ROWS)
    known = {"P": small[1], "IN": str(rows), "IN/x": f"{rows}/x"}
    folder = str(small[0])
    arguments = [known.get(each, each.replace("FOLDER", folder)) for each in arguments]
    arguments = [each.replace("P,", small[1] + ",") for each in arguments]
    status, out, err = run(*arguments, stdin=b"")
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err.replace(folder, "FOLDER")
    assert len(err.splitlines()) == 1
    assert rows.read_bytes() == b"".join(map(line_of, ROWS))
    assert [each.name for each in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_pipe_is_no_input_file(small, run, no_weights, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    status, out, err = run("--prompts", small[1], "--input", tmp_path / "pipe")
    assert (status, out) == (2, "")
    assert "is a pipe, which cannot be read twice" in err


def test_prompts_that_do_not_fit(small, run, no_weights, tmp_path):
    wide = save_prompts(tmp_path, small[0] / "model", {"wide": []}, width=48)
    status, _, err = run("--prompts", f"{small[1]},{wide}", stdin=b"")
    assert status == 2
    assert "error: Prompt wide does not fit: The prompt is 48 wide" in err
    other = save_prompts(tmp_path, "elsewhere", {"other": []})
    status, _, err = run("--prompts", f"{small[1]},{other}", stdin=b"")
    assert status == 2
    assert "do not name one model" in err
    assert "elsewhere" in err
    alike = save_prompts(tmp_path, small[0] / "model", {"alike": ["good", " good"]})
    status, _, err = run("--prompts", alike, stdin=b"")
    assert status == 2
    assert "The labels of prompt alike are of no use" in err
    odd = save_prompts(tmp_path, small[0] / "model", {"odd": "yes"})
    status, _, err = run("--prompts", odd, stdin=b"")
    assert status == 2
    assert "no list of texts" in err


def test_help(run):
    status, out, _ = run("--help")
    assert status == 0
    for name in ("--prompts", "--input", "--output", "--temperature", "Exit status: 0"):
        assert name in out
