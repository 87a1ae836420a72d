"""Where each tensor of a transformers checkpoint goes in our modules: one table per family.

A checkpoint's tensor names are those of the torch `state_dict`. A rule's pattern is matched against
the whole name (`re.fullmatch`), and its path, with the groups filled in (`match.expand`), is the
parameter's dotted path in `nnx.to_flat_state(nnx.state(module))`.

A table covers every variant of its family (gated and plain feed-forward layers, biases, a head of
its own). A rule therefore may give a path that a particular module does not have; that is a surplus
tensor, to be reported, with one exception: `TIED_HEAD` in a model whose head is its embedding.
"""

import re
from dataclasses import dataclass

TIED_HEAD = "lm_head.weight"
"""The output head's name in every family. A model with `config.tied` has no parameter for it."""


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
        pattern: regular expression for the whole torch name.
        path: template in `re.Match.expand` form that gives our dotted parameter path.
        transpose: whether the torch matrix is [out, in] and ours is [in, out].
    """

    pattern: str
    path: str
    transpose: bool = False


_T5 = (
    Rule(r"shared\.weight", r"embedding"),
    Rule(r"lm_head\.weight", r"head.kernel", transpose=True),
    Rule(
        r"(encoder|decoder)\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
        r"\1.relative_bias",
    ),
    Rule(
        r"(encoder|decoder)\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.weight",
        r"\1.blocks.\2.attention.\3.kernel",
        transpose=True,
    ),
    Rule(
        r"(encoder|decoder)\.block\.(\d+)\.layer\.0\.layer_norm\.weight",
        r"\1.blocks.\2.attention_norm.scale",
    ),
    Rule(
        r"decoder\.block\.(\d+)\.layer\.1\.EncDecAttention\.([qkvo])\.weight",
        r"decoder.blocks.\1.cross_attention.\2.kernel",
        transpose=True,
    ),
    Rule(
        r"decoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight",
        r"decoder.blocks.\1.cross_attention_norm.scale",
    ),
    # The feed-forward layer comes second in an encoder's block and third in a decoder's.
    *(
        Rule(
            rf"{stack}\.block\.(\d+)\.layer\.{index}\.DenseReluDense\.{theirs}\.weight",
            rf"{stack}.blocks.\1.mlp.{ours}.kernel",
            transpose=True,
        )
        for stack, index in (("encoder", 1), ("decoder", 2))
        for theirs, ours in (("wi", "up"), ("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))
    ),
    *(
        Rule(
            rf"{stack}\.block\.(\d+)\.layer\.{index}\.layer_norm\.weight",
            rf"{stack}.blocks.\1.mlp_norm.scale",
        )
        for stack, index in (("encoder", 1), ("decoder", 2))
    ),
    Rule(r"(encoder|decoder)\.final_layer_norm\.weight", r"\1.final_norm.scale"),
)

_LLAMA = (
    Rule(r"(?:model\.)?embed_tokens\.weight", r"embedding"),
    Rule(r"lm_head\.weight", r"head.kernel", transpose=True),
    Rule(
        r"(?:model\.)?layers\.(\d+)\.self_attn\.([qkvo])_proj\.weight",
        r"blocks.\1.attention.\2.kernel",
        transpose=True,
    ),
    Rule(
        r"(?:model\.)?layers\.(\d+)\.self_attn\.([qkvo])_proj\.bias",
        r"blocks.\1.attention.\2.bias",
    ),
    Rule(
        r"(?:model\.)?layers\.(\d+)\.self_attn\.([qk])_norm\.weight",
        r"blocks.\1.attention.\2_norm.scale",
    ),
    Rule(
        r"(?:model\.)?layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight",
        r"blocks.\1.mlp.\2.kernel",
        transpose=True,
    ),
    Rule(r"(?:model\.)?layers\.(\d+)\.mlp\.(gate|up|down)_proj\.bias", r"blocks.\1.mlp.\2.bias"),
    Rule(r"(?:model\.)?layers\.(\d+)\.input_layernorm\.weight", r"blocks.\1.attention_norm.scale"),
    Rule(
        r"(?:model\.)?layers\.(\d+)\.post_attention_layernorm\.weight",
        r"blocks.\1.mlp_norm.scale",
    ),
    Rule(r"(?:model\.)?norm\.weight", r"final_norm.scale"),
)

# GPT-2's Conv1D weights are [in, out] already.
_GPT2 = (
    Rule(r"(?:transformer\.)?wte\.weight", r"embedding"),
    Rule(r"(?:transformer\.)?wpe\.weight", r"position_embedding"),
    Rule(r"lm_head\.weight", r"head.kernel", transpose=True),
    *(
        Rule(rf"(?:transformer\.)?h\.(\d+)\.{theirs}\.{end}", rf"blocks.\1.{ours}.{our_end}")
        for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm"))
        for end, our_end in (("weight", "scale"), ("bias", "bias"))
    ),
    *(
        Rule(rf"(?:transformer\.)?h\.(\d+)\.{theirs}\.{end}", rf"blocks.\1.{ours}.{our_end}")
        for theirs, ours in (
            (r"attn\.c_attn", "attention.qkv"),
            (r"attn\.c_proj", "attention.o"),
            (r"mlp\.c_fc", "mlp.up"),
            (r"mlp\.c_proj", "mlp.down"),
        )
        for end, our_end in (("weight", "kernel"), ("bias", "bias"))
    ),
    Rule(r"(?:transformer\.)?ln_f\.weight", r"final_norm.scale"),
    Rule(r"(?:transformer\.)?ln_f\.bias", r"final_norm.bias"),
)

TABLES: dict[str, tuple[Rule, ...]] = {"t5": _T5, "llama": _LLAMA, "gpt2": _GPT2}
"""Family (`config.family`) to its table. At most one rule matches a name."""

IGNORED: dict[str, tuple[str, ...]] = {
    "t5": (
        # Copies of shared.weight, and a bias that old exports hold though cross attention has none.
        r"(encoder|decoder)\.embed_tokens\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
    "llama": (r"(?:model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    # The causal mask, which old exports keep as a tensor.
    "gpt2": (r"(?:transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),
}
"""Family to patterns (`re.fullmatch`) of names that a loader passes over without a word."""


def find_rule(family: str, name: str) -> tuple[str, bool] | None:
    """Looks up a torch tensor name.

    Args:
        family: "t5", "llama" or "gpt2".
        name: name in the torch `state_dict`.

    Returns:
        Our dotted parameter path and whether to transpose, or None when no rule matches.
    """
    for rule in TABLES[family]:
        if match := re.fullmatch(rule.pattern, name):
            return match.expand(rule.path), rule.transpose
    return None


def is_ignored(family: str, name: str) -> bool:
    """Whether a loader may pass over the tensor of this torch name."""
    return any(re.fullmatch(pattern, name) for pattern in IGNORED[family])
