from types import SimpleNamespace

import jax
import pytest

from softprompt_jax.training.chips import TPU_V5E, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v2", "TPU v2 core"),
        ("TPU v3", "TPU v3 core"),
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5e", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
    ],
)
def test_device_kinds(kind, name):
    chip = chip_of(SimpleNamespace(device_kind=kind))
    assert chip is not None
    assert chip.name == name


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40S", "TPU v4 lite", "Quadro T400"])
def test_an_unknown_device_is_none(kind):
    assert chip_of(SimpleNamespace(device_kind=kind)) is None


def test_a_cpu_of_jax_is_none():
    assert chip_of(jax.devices("cpu")[0]) is None


def test_v4_cores_apart_are_half_a_chip():
    whole = chip_of(SimpleNamespace(device_kind="TPU v4", num_cores=2))
    half = chip_of(SimpleNamespace(device_kind="TPU v4", num_cores=1))
    assert whole is not None
    assert half is not None
    assert half[1:] == tuple(x / 2 for x in whole[1:])


def test_v5e_is_what_the_maker_says():
    assert TPU_V5E[1:] == (17_179_869_184, 197e12, 819e9)
