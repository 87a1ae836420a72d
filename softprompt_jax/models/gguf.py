"""GGUF files of the Llama architecture: metadata, and tensors as a `TensorSource`.

The header is read here, in one pass over the file (the `gguf` package's reader makes an array
object for every string of the vocabulary, which takes seconds and a hundred megabytes); the
numbers are dequantised by the `gguf` package.

References:
    The file format: `docs/gguf.md` in ggml-org/ggml. llama.cpp's order of the rows of q and k:
    `LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`.
"""

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize

from softprompt_jax.errors import UserError
from softprompt_jax.models.tensor_files import damaged

_PLAIN = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
_QUANTISED = (
    GGMLQuantizationType.Q8_0,
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_1,
    GGMLQuantizationType.Q4_K,
    GGMLQuantizationType.Q6_K,
)

_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor stands in the file.

    Attributes:
        shape: torch's shape (GGUF lists the dimensions the other way round).
        kind: how the numbers are stored.
        offset: first byte, from the start of the file.
    """

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int


@dataclass(frozen=True)
class GGUFHeader:
    """What stands before the numbers in a GGUF file.

    Attributes:
        path: the file.
        metadata: key to value; arrays are lists.
        tensors: llama.cpp's tensor name to where it stands.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GGUFHeader:
    """Reads metadata and tensor list, and checks that the file is as long as they say.

    Raises:
        UserError: the file is missing, damaged, cut short, no GGUF file, or has a tensor type that
            is not supported.
    """
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            if data[:4] != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            return _HeaderReader(path, data).read()
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, struct.error, ArithmeticError) as error:
        raise damaged(path, error) from error


class _HeaderReader:
    def __init__(self, path: Path, data: mmap.mmap):
        self._path = path
        self._data = data
        self._at = 4

    def read(self) -> GGUFHeader:
        version = self._number("<I")
        if version not in (2, 3):
            raise UserError(
                f"{self._path} is of GGUF version {version}, and only versions 2 and 3 in "
                "little-endian order can be read; convert it with a current llama.cpp."
            )
        tensor_count, key_count = self._number("<Q"), self._number("<Q")
        metadata = {}
        for _ in range(key_count):
            key = self._text()
            metadata[key] = self._value(GGUFValueType(self._number("<I")))
        tensors = dict(self._tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", 32)
        start = -(-self._at // alignment) * alignment
        placed = {
            name: TensorInfo(info.shape, info.kind, start + info.offset)
            for name, info in tensors.items()
        }
        for name, info in placed.items():
            end = info.offset + math.prod(info.shape[:-1]) * _row_bytes(info)
            if end > len(self._data):
                raise ValueError(f"{name} ends at byte {end} of {len(self._data)}")
        return GGUFHeader(self._path, metadata, placed)

    def _tensor(self) -> tuple[str, TensorInfo]:
        name = self._text()
        rank = self._number("<I")
        if not 1 <= rank <= 4:
            raise ValueError(f"{name} has {rank} dimensions")
        shape = tuple(self._number("<Q") for _ in range(rank))[::-1]
        code = self._number("<I")
        kind = GGMLQuantizationType(code)
        if kind not in _PLAIN and kind not in _QUANTISED:
            known = ", ".join(each.name for each in (*_PLAIN, *_QUANTISED))
            raise UserError(
                f"{name} in {self._path} is of type {kind.name}, and only {known} can be read; use "
                "a file quantised as Q8_0, Q4_0, Q4_1 or Q4_K_M."
            )
        return name, TensorInfo(shape, kind, self._number("<Q"))

    def _value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self._text()
        if kind != GGUFValueType.ARRAY:
            return self._number(_SCALARS[kind])
        item, length = GGUFValueType(self._number("<I")), self._number("<Q")
        if item not in _SCALARS:
            return [self._value(item) for _ in range(length)]
        dtype = np.dtype(_SCALARS[item])
        values = np.frombuffer(self._bytes(length * dtype.itemsize), dtype)
        return values.tolist()

    def _text(self) -> str:
        return self._bytes(self._number("<Q")).decode("utf-8")

    def _number(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _bytes(self, length: int) -> bytes:
        if self._at + length > len(self._data):
            raise ValueError("the header ends too early")
        self._at += length
        return self._data[self._at - length : self._at]


def _row_bytes(info: TensorInfo) -> int:
    """Bytes of one row, which is stored as a whole number of blocks."""
    block_size, block_bytes = GGML_QUANT_SIZES[info.kind]
    if info.shape[-1] % block_size:
        raise ValueError(f"a row of {info.shape[-1]} is no whole number of {info.kind.name} blocks")
    return info.shape[-1] // block_size * block_bytes


def raw_config(header: GGUFHeader) -> dict[str, Any]:
    """The metadata as a `config.json` of transformers would say it.

    Raises:
        UserError: another architecture than Llama, or a variant of it that a Llama model cannot
            express (experts, rotary factors, partial rotation), or missing keys.
    """
    metadata, path = header.metadata, header.path
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UserError(
            f"{path} holds a model of architecture {architecture!r}, and of GGUF files only the "
            "llama architecture can be read; use the model's original folder or hub id."
        )

    def need(key: str, default: float | None = None) -> Any:
        value = metadata.get(f"llama.{key}", default)
        if not isinstance(value, int | float):
            raise UserError(f"{path} has no number under llama.{key}; use another file.")
        return value

    # As llama.cpp reads it, a factor without a type is linear, and had another name once.
    factor = need("rope.scaling.factor", metadata.get("llama.rope.scale_linear", 1))
    is_scaled = factor not in (0, 1)
    scaling = metadata.get("llama.rope.scaling.type", "linear" if is_scaled else "none")
    if (
        metadata.get("llama.expert_count", 0)
        or scaling not in ("none", "linear")
        or "rope_freqs.weight" in header.tensors
    ):
        raise UserError(
            f"{path} uses experts or rotary factors that a GGUF file does not describe fully; use "
            "the model's original folder or hub id."
        )

    hidden, heads = need("embedding_length"), need("attention.head_count")
    if heads < 1 or hidden < 1:
        raise UserError(f"{path} says {heads} heads of a width of {hidden}; use another file.")
    head_dim = need("attention.key_length", hidden // heads)
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise UserError(
            f"{path} rotates only a part of each head, which is not supported; use another model."
        )
    vocabulary = header.tensors.get("token_embd.weight")
    if vocabulary is None:
        raise UserError(f"{path} has no tensor token_embd.weight; fetch it again.")
    # A chat model ends its turn by a token of its own.
    named = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    ends = list(dict.fromkeys(each for each in named if each in range(vocabulary.shape[0])))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary.shape[0],
        "hidden_size": hidden,
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": need("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": need("context_length"),
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    if scaling == "linear" and is_scaled:
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    return config


class GGUFSource:
    """The tensors of a GGUF file under torch's names, dequantised, q and k in torch's row order.

    Attributes:
        path: the file.
    """

    def __init__(self, header: GGUFHeader):
        self.path = header.path
        self._tensors = {_torch_name(name): info for name, info in header.tensors.items()}
        self._shapes = {name: info.shape for name, info in self._tensors.items()}
        heads = header.metadata["llama.attention.head_count"]
        kv_heads = header.metadata.get("llama.attention.head_count_kv", heads)
        self._rotated = {"q_proj": heads, "k_proj": kv_heads}

    def names(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's torch name and torch shape."""
        return self._shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor, or a range of its first axis: float32 when quantised, else as stored."""
        info = self._tensors[name]
        lines, columns = math.prod(info.shape[:-1]), _row_bytes(info)
        # Mapped anew for each read: pages that were touched count as this process's memory.
        stored = np.memmap(self.path, np.uint8, "r", info.offset, (lines, columns))
        if len(info.shape) > 1:
            order = self._row_order(name, info.shape[0])
            stored = stored[rows] if order is None else stored[order[rows]]
        values = (
            np.array(stored).view(_PLAIN[info.kind])
            if info.kind in _PLAIN
            else dequantize(np.asarray(stored), info.kind)
        )
        if len(info.shape) == 1:
            order = self._row_order(name, info.shape[0])
            return (values[0] if order is None else values[0][order])[rows]
        return values

    def _row_order(self, name: str, rows: int) -> np.ndarray | None:
        """Which stored row each row of torch's tensor is, or None when they stand in order.

        llama.cpp rotates neighbouring pairs, torch's Llama the two halves of a head; so the
        conversion to GGUF interleaves the halves of each head of q and k.
        """
        heads = self._rotated.get(name.split(".")[-2])
        if heads is None:
            return None
        return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    def close(self) -> None:
        """Nothing is held open."""


def _torch_name(name: str) -> str:
    """The name in torch; a name that Llama has not stays as it is."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, end = match.groups()
        if part in _LAYER_NAMES:
            return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{end}"
    module, _, end = name.rpartition(".")
    return f"{_TOP_NAMES[module]}.{end}" if module in _TOP_NAMES else name
