"""The tokenizer that a GGUF file's metadata describes, built without torch.

Two kinds are known: byte-level BPE ("gpt2"), whose way of splitting text is a regular expression
that the file only names, and SentencePiece BPE ("llama"), whose merges follow from the scores.

transformers (5.23) builds tokenizers from GGUF files too, but splits "smollm" as GPT-2 does. That
tells only where a numeral has merges of its own: " ½" is a space and "½" in SmolLM2's own
tokenizer.json, in llama.cpp and here, because every numeral stands alone.

References:
    `llm_tokenizer_bpe` in llama.cpp's `src/llama-vocab.cpp` for the splits; Kudo and Richardson
    2018, "SentencePiece".
"""

from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from softprompt_jax.errors import UserError

_CONTROL, _USER_DEFINED, _NORMAL = 3, 4, 1  # llama_token_type

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# tokenizer.ggml.pre to the way text is split before merging.
_GPT2_KIND = ("gpt-2", "mpt", "olmo", "phi-2")
_DIGITS_KIND = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"), _LLAMA3_SPLIT),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2_SPLIT),
    "tekken": _TEKKEN_SPLIT,
}
# A word that is in the vocabulary as a whole is taken before any merging.
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
# Where the file does not say whether texts begin with the BOS token.
_BOS_UNLESS_TOLD = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")


def build_tokenizer(metadata: dict[str, Any], path: Path) -> Any:
    """The file's tokenizer as a `transformers.PreTrainedTokenizerFast`.

    Args:
        metadata: the file's keys and values (`gguf.GGUFHeader.metadata`).
        path: the file, for messages.

    Raises:
        UserError: the file has no tokenizer, or one of an unknown kind.
    """
    from transformers import PreTrainedTokenizerFast

    facts = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    # Some files name special tokens that they do not have, which llama.cpp passes over as well.
    for key in [key for key in facts if key.endswith("_token_id")]:
        if facts[key] not in range(len(facts.get("tokens", ()))):
            del facts[key]
    kind = facts.get("model")
    if kind == "gpt2" and "tokens" in facts and "merges" in facts:
        tokenizer = _byte_level(facts, path)
    elif kind == "llama" and "tokens" in facts and "scores" in facts:
        tokenizer = _sentencepiece(facts)
    else:
        raise UserError(
            f"{path} has no tokenizer of a known kind (tokenizer.ggml.model is {kind!r}); use the "
            "model's original folder or hub id."
        )
    _add_special_tokens(tokenizer, facts)
    names = {
        "bos_token": "bos_token_id",
        "eos_token": "eos_token_id",
        "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id",
    }
    special = {name: facts["tokens"][facts[key]] for name, key in names.items() if key in facts}
    _add_bos_and_eos(tokenizer, facts, special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        model_max_length=metadata.get("llama.context_length", int(1e30)),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _byte_level(facts: dict[str, Any], path: Path) -> Tokenizer:
    pre = facts.get("pre")
    if pre in _GPT2_KIND:
        splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    elif pre in _DIGITS_KIND:
        splitter = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif pre in _SPLITS:
        splitter = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        known = ", ".join((*_GPT2_KIND, *_DIGITS_KIND, *_SPLITS))
        raise UserError(
            f"{path} splits text in a way that is not known (tokenizer.ggml.pre is {pre!r}, not "
            f"one of {known}); use the model's original folder or hub id."
        )
    # A piece may begin with a space, so the separator is looked for from the second character on.
    cuts = [(merge, merge.find(" ", 1)) for merge in facts["merges"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(facts["tokens"])},
            merges=[(merge[:cut], merge[cut + 1 :]) for merge, cut in cuts],
            ignore_merges=pre in _WHOLE_WORDS_FIRST,
        )
    )
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(facts: dict[str, Any]) -> Tokenizer:
    tokens, scores = facts["tokens"], facts["scores"]
    kinds = facts.get("token_type", [_NORMAL] * len(tokens))
    vocab = {token: index for index, token in enumerate(tokens)}
    mergeable = {token for token, kind in zip(tokens, kinds, strict=True) if kind == _NORMAL}
    merges = [
        (-scores[vocab[token]], -cut, token[:cut], token[cut:])
        for token in mergeable
        for cut in range(1, len(token))
        if token[:cut] in mergeable and token[cut:] in mergeable
    ]
    merges.sort()
    unknown = facts.get("unknown_token_id", 0)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[(left, right) for _, _, left, right in merges],
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = facts.get("add_space_prefix", True)
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), *spaces] if prefix else spaces
    )
    strip: list[Any] = [decoders.Strip(content=" ", left=1)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _add_special_tokens(tokenizer: Tokenizer, facts: dict[str, Any]) -> None:
    """Keeps control and user-defined tokens whole wherever they stand in a text."""
    marked = list(zip(facts["tokens"], facts.get("token_type", ()), strict=False))
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, k in marked if k == _CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in marked if kind == _USER_DEFINED]
    )


def _add_bos_and_eos(tokenizer: Tokenizer, facts: dict[str, Any], special: dict[str, str]) -> None:
    told = facts.get("model") == "llama" or facts.get("pre") in _BOS_UNLESS_TOLD
    bos = special.get("bos_token") if facts.get("add_bos_token", told) else None
    eos = special.get("eos_token") if facts.get("add_eos_token", False) else None
    if bos is None and eos is None:
        return
    ids = {"bos_token_id": bos, "eos_token_id": eos}
    before, after = [bos] if bos else [], [eos] if eos else []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{token}:1" for token in before), "$B:1"]
        + [f"{token}:1" for token in after],
        special_tokens=[(token, facts[key]) for key, token in ids.items() if token],
    )
