r"""`python -m softprompt_jax.predict`: answers a file of rows, each with the prompt that it names.

    python -m softprompt_jax.predict --prompts boolq=runs/boolq/best,rte=runs/rte/best \
      --input rows.jsonl --output answers.jsonl

A row is a JSON object on one line: {"text": "…", "prompt": "boolq"}; "id" is handed on. Where the
prompt was trained on labels, or the row has "choices", the likeliest of them is the prediction and
"scores" are their log-likelihoods; otherwise text is generated. Answers come in the rows' order,
each with its "line". A row that cannot be answered gives {"line": …, "error": "…"}.

With --output the answers are written in whole chunks: a job that was stopped, even by SIGKILL, goes
on by the same command, and ends with the file that it would have written without the stop. Without
--input, rows are read from standard input and each is answered at once.

Exit status: 0 all rows are answered, 3 some are error rows, 2 a mistake in the command or no room
for the answers, 1 whoever read them has gone, 130 after Ctrl-C.
"""

import argparse
import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from softprompt_jax.command_line import Parser, run_command
from softprompt_jax.data.tokenization import encode_choices
from softprompt_jax.errors import UserError
from softprompt_jax.inference.answering import Answerer
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.row_files import (
    BadRow,
    ResumableOutput,
    Row,
    json_line,
    read_lines,
    read_rows,
)
from softprompt_jax.inference.search import check_search
from softprompt_jax.inference.setup import (
    Opened,
    add_model_options,
    check_least,
    labels_of,
    open_prompts,
    parse_prompts,
    target_prefix_of,
)
from softprompt_jax.progress import progress_bar
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.version import __version__

# Rows that are answered together, in batches of about one length: enough that few batches are part
# empty, few enough that a stopped job has little to do again.
BATCHES_A_CHUNK = 32

# The options that decide an answer, beside those of the model.
ANSWERING = (
    *("max_input_length", "max_new_tokens", "temperature", "top_k", "top_p", "seed"),
    *("beams", "length_penalty", "stop"),
)

SOME_ERRORS = 3
"""Exit status where rows could not be answered."""


def main(arguments: Sequence[str]) -> int:
    """Answers a file, or standard input line by line."""
    options = _parse(arguments)
    opened = open_prompts(options, parse_prompts(options.prompts, named=True))
    labels = check_prompts(opened, options.max_new_tokens)
    tally = Tally()
    try:
        if options.input == "-":
            answerer = _answerer(opened.load(), opened, labels, options)
            for row in read_rows(read_lines(sys.stdin.buffer), labels):
                _tell(answerer([row]), tally)
        else:
            _answer_file(Path(options.input), options, opened, labels, tally)
    except BrokenPipeError:
        _give_up_standard_output()  # whoever read the answers has gone
        return 1
    if tally.errors:
        print(tally.report(), file=sys.stderr)
    return SOME_ERRORS if tally.errors else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("softprompt_jax.predict", __doc__)
    add_model_options(parser)
    parser.add_argument(
        "--input", default="-", help="JSONL file of rows; default: -, standard input"
    )
    parser.add_argument("--output", help="JSONL file of answers; default: standard output")
    parser.add_argument(
        "--max-input-length",
        type=int,
        default=512,
        help="tokens of a text or choice at most; default: 512",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=32, help="tokens to generate at most; default: 32"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="draw tokens, from logits divided by this, above 0; default: 1 with --top-k or "
        "--top-p, else the likeliest token is taken",
    )
    parser.add_argument(
        "--top-k", type=int, help="draw tokens, from so many likeliest ones; default: all of them"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        help="draw tokens, from the fewest likeliest ones that have this probability together, in "
        "(0, 1]; default: all of them",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of what is drawn, together with the row's line; default: 0",
    )
    parser.add_argument(
        "--beams", type=int, default=1, help="beam search along so many texts; default: 1, none"
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        default=1.0,
        help="beams compare by log-likelihood / length to the power of this; default: 1",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        help="an answer ends before this string; may be given several times; default: none",
    )
    options = parser.parse_args(arguments)
    least = {"batch_size": 1, "max_input_length": 1, "max_new_tokens": 1, "top_k": 1}
    check_least(options, **least, seed=0, beams=1)
    if options.seed >= 2**31:
        raise UserError(f"--seed is {options.seed}; it must be below 2**31.")
    check_search(
        options.max_new_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
        options.beams,
        options.length_penalty,
        options.stop,
        None,
    )
    if options.input == "-" and options.output is not None:
        raise UserError(
            "--output needs an --input file, to go on with after a stop; send the answers of "
            "standard input to a file by the shell."
        )
    return options


def check_prompts(opened: Opened, max_new_tokens: int) -> dict[str, tuple[str, ...]]:
    """The labels that each prompt's rows are scored among; none where text is generated.

    They are without what the prompt was trained to say before them.

    Raises:
        UserError: the model cannot tell a prompt's labels apart, or no text fits beside a prompt.
    """
    tokenizer = opened.files.load_tokenizer()
    config: Any = opened.files.config
    labels = {}
    for name, prompt in opened.prompts.items():
        # One label is no choice.
        labels[name] = own if len(own := labels_of(name, prompt)) > 1 else ()
        answer = max_new_tokens
        if own := labels[name]:
            try:
                answer = max(map(len, encode_choices(own, tokenizer, config)))
            except UserError as error:
                raise UserError(f"The labels of prompt {name} are of no use: {error}") from None
            prefix = target_prefix_of(name, prompt)
            labels[name] = tuple(label.removeprefix(prefix) for label in own)
        limit = config.max_positions
        if limit is not None and prompt.length + answer >= limit:
            raise UserError(
                f"Prompt {name} has {prompt.length} positions and an answer up to {answer}, but "
                f"{opened.files.name} reads {limit} at most, texts included; lower "
                "--max-new-tokens or use a shorter prompt."
            )
    return labels


def _answer_file(
    path: Path,
    options: argparse.Namespace,
    opened: Opened,
    labels: Mapping[str, Sequence[str]],
    tally: "Tally",
) -> None:
    """Answers a file in chunks, into the output file or to standard output."""
    chunk_rows = BATCHES_A_CHUNK * options.batch_size
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(
            f"The input {path} is a pipe, which cannot be read twice; give a file, or pipe the "
            "rows to standard input without --input."
        )
    try:
        with path.open("rb") as file:
            digest, n_lines = _digest_and_lines(file)
    except OSError as error:
        raise UserError(f"The input {path} cannot be read ({error.strerror}); mend it.") from None
    output = None
    if options.output is not None:
        job = describe_job(options, opened, digest)
        output = ResumableOutput(Path(options.output), job, chunk_rows)
        if output.rows_done:
            print(f"Going on after {output.rows_done} rows.", file=sys.stderr)
            for row in output.rows():
                tally.count(row)
    try:
        predictor = opened.load()
        if output is not None:
            output.check_weights(predictor.model.fingerprint)
        answerer = _answerer(predictor, opened, labels, options)
        done = 0 if output is None else output.rows_done
        with (
            path.open("rb") as file,
            progress_bar(n_lines, "row", initial=tally.line) as bar,
        ):
            rows = itertools.islice(read_rows(read_lines(file), labels), done, None)
            for chunk in _chunks(rows, chunk_rows):
                answers = answerer(chunk)
                if output is None:
                    _tell(answers, tally)
                else:
                    output.write_chunk(answers)
                    for answer in answers:
                        tally.count(answer)
                bar.update(chunk[-1].line - bar.n)
        if output is not None:
            output.finish()
    finally:
        if output is not None:
            output.close()


def describe_job(options: argparse.Namespace, opened: Opened, digest: str) -> dict[str, Any]:
    """The facts that decide an output file's bytes."""
    prompts = {}
    for name, prompt in opened.prompts.items():
        arrays = [prompt.vectors] if isinstance(prompt, SoftPrompt) else prompt.tensors.values()
        whole = b"".join(np.asarray(array).tobytes() for array in arrays)
        vectors = hashlib.sha256(whole).hexdigest()
        prefix = target_prefix_of(name, prompt)
        prompts[name] = {"vectors": vectors, "labels": labels_of(name, prompt), "prefix": prefix}
    return {
        "input": digest,
        "model": opened.files.name,
        "dtype": opened.dtype,
        "prompts": prompts,
        "batch_size": opened.batch_size,
        # Another number or kind of devices, or another mesh of them, computes other bits.
        "devices": str(opened.layout),
        "version": __version__,
        **{name: getattr(options, name) for name in ANSWERING},
    }


def _answerer(
    predictor: Predictor,
    opened: Opened,
    labels: Mapping[str, Sequence[str]],
    options: argparse.Namespace,
) -> Answerer:
    prefixes = {name: target_prefix_of(name, prompt) for name, prompt in opened.prompts.items()}
    search = {name: getattr(options, name) for name in ANSWERING}
    return Answerer(predictor, labels=labels, prefixes=prefixes, **search)


class Tally:
    """How many rows are error rows, and where the first ones are.

    Attributes:
        line: of the last row.
        rows: all of them.
        errors: error rows among them.
    """

    SHOWN = 5

    def __init__(self):
        self.line = 0
        self.rows = 0
        self.errors = 0
        self._lines: list[int] = []

    def count(self, answer: Mapping[str, Any]) -> None:
        """Takes an answer or error row into account."""
        self.line = answer["line"]
        self.rows += 1
        if "error" in answer:
            self.errors += 1
            if len(self._lines) < self.SHOWN:
                self._lines.append(answer["line"])

    def report(self) -> str:
        """The error rows in a sentence."""
        lines = ", ".join(map(str, self._lines))
        more = ", …" if self.errors > len(self._lines) else ""
        one = self.errors == 1
        return (
            f"{self.errors} of {self.rows} rows could not be answered and "
            f"{'is an error row' if one else 'are error rows'} "
            f"({'line' if one else 'lines'} {lines}{more})."
        )


def _tell(answers: Iterable[Mapping[str, Any]], tally: Tally) -> None:
    """Prints answers, for whoever waits for them."""
    try:
        for answer in answers:
            tally.count(answer)
            sys.stdout.buffer.write(json_line(answer))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_standard_output()
        raise UserError(
            f"The answers cannot be written to standard output ({error.strerror}); make room."
        ) from None


def _give_up_standard_output() -> None:
    """Nothing more can be written to it, of which Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _chunks(rows: Iterator[Row | BadRow], size: int) -> Iterator[list[Row | BadRow]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _digest_and_lines(file: BinaryIO) -> tuple[str, int]:
    """SHA-256 of a file as hex, and its number of line ends."""
    digest, lines = hashlib.sha256(), 0
    while block := file.read(2**20):
        digest.update(block)
        lines += block.count(b"\n")
    return digest.hexdigest(), lines


if __name__ == "__main__":
    sys.exit(run_command(main))
