"""What accelerators can do at most, as their makers publish it."""

import re
from typing import Any, NamedTuple


class Chip(NamedTuple):
    """A device as JAX sees it.

    Attributes:
        name: as people call it.
        memory_bytes: its memory; the compiler keeps some of it to itself (0.25 GiB on a TPU v5e).
        peak_flops: multiplications and additions a second in bfloat16, dense (on a T4, which has
            none, in float16).
        bandwidth: bytes a second between its memory and its cores.
    """

    name: str
    memory_bytes: int
    peak_flops: float
    bandwidth: float


_GIB = 2**30

TPU_V5E = Chip("TPU v5e", 16 * _GIB, 197e12, 819e9)

# Patterns of `device_kind`, the first that is found counts. Of TPU v2 and v3, JAX's devices are the
# two cores of a chip: half of what is published for the chip.
_CHIPS = (
    (r"TPU v2", Chip("TPU v2 core", 8 * _GIB, 23e12, 350e9)),
    (r"TPU v3", Chip("TPU v3 core", 16 * _GIB, 61.5e12, 450e9)),
    (r"TPU v4$", Chip("TPU v4", 32 * _GIB, 275e12, 1228e9)),
    (r"TPU v5 ?(lite|e)", TPU_V5E),
    (r"TPU v5p?$", Chip("TPU v5p", 95 * _GIB, 459e12, 2765e9)),
    (r"TPU v6 ?(lite|e)", Chip("TPU v6e", 32 * _GIB, 918e12, 1640e9)),
    (r"A100.*80GB", Chip("A100 80 GB", 80 * _GIB, 312e12, 2039e9)),
    (r"A100", Chip("A100 40 GB", 40 * _GIB, 312e12, 1555e9)),
    (r"H100 PCIe", Chip("H100 PCIe", 80 * _GIB, 756e12, 2000e9)),
    (r"H100 80GB HBM3", Chip("H100 SXM", 80 * _GIB, 989e12, 3350e9)),
    (r"\bL4$", Chip("L4", 24 * _GIB, 121e12, 300e9)),
    (r"\bT4$", Chip("T4", 16 * _GIB, 65e12, 300e9)),
)


def chip_of(device: Any) -> Chip | None:
    """The chip that a JAX device is, by its `device_kind`; None for others and for CPUs.

    References:
        TPUs: "System architecture" of each version in the Cloud TPU documentation. GPUs: NVIDIA's
        data sheets of A100, H100, L4 and T4 (figures without sparsity).
    """
    for pattern, chip in _CHIPS:
        if re.search(pattern, device.device_kind):
            # A v4 is one device as a rule, but two where its cores are not joined.
            apart = chip.name == "TPU v4" and getattr(device, "num_cores", 2) == 1
            return _half(chip) if apart else chip
    return None


def _half(chip: Chip) -> Chip:
    name, memory_bytes, peak_flops, bandwidth = chip
    return Chip(f"{name} core", memory_bytes // 2, peak_flops / 2, bandwidth / 2)
