"""Whole runs in other layouts: data, evaluation, checkpoints and the best, as on one device."""

import numpy as np
import pytest
from small_runs import changed, metrics_lines, small_config

from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.training.tuning import train

MESH = {"parallel__devices": 8, "parallel__layout": "mesh", "parallel__tensor": 2}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt_tuning", "model_tuning"])
def test_a_sharded_scanned_run_is_that_of_one_device(tmp_path, method):
    plain = small_config(
        tmp_path,
        train__method=method,
        train__steps=6,
        train__evaluate_every=3,
        task__test_file=str(tmp_path / "test.jsonl"),
    )
    mesh = changed(
        plain, workdir=str(tmp_path / "mesh"), train__scan_layers=True, train__remat="full", **MESH
    )
    # Stopped halfway, so that a checkpoint of shards is read.
    train(changed(mesh, train__steps=3))
    found, expected = train(mesh), train(plain)
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-6)
    lines = [
        [line["train/loss"] for line in metrics_lines(result.workdir) if "train/loss" in line]
        for result in (found, expected)
    ]
    assert len(lines[0]) == 6
    np.testing.assert_allclose(*lines, rtol=1e-4)
    if method == "prompt_tuning":
        best = [SoftPrompt.load(result.workdir / "best").vectors for result in (found, expected)]
    else:
        ids = np.asarray([[3, 4, 5]])
        best = [
            load_model(str(result.workdir / "best")).logits(ids, decoder_input_ids=ids)
            for result in (found, expected)
        ]
    np.testing.assert_allclose(*best, rtol=1e-3, atol=1e-3)
