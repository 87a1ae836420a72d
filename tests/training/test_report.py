"""What is said of a finished run."""

import json
from pathlib import Path

import numpy as np

from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.prompts.prompt_folders import save_prompts
from softprompt_jax.prompts.prompted_model import PromptedModel
from softprompt_jax.training.report import report
from softprompt_jax.training.workdir import TrainResult


def result(workdir: Path) -> TrainResult:
    return TrainResult(None, {"validation/mean": 0.5}, workdir, 3, True, 60.0, 2.0)


def test_prompts_of_several_tasks(tmp_path, monkeypatch):
    prompted = PromptedModel(None, np.zeros((2, 4, 8), np.float32))
    save_prompts(tmp_path / "best", prompted, {"model": "tiny"}, {"glue/cola": [], "squad": []})
    told = report(result(tmp_path), "tiny")
    assert "tuned model" not in told
    loaded = {}
    monkeypatch.setattr(Predictor, "load", lambda model, folders: loaded.update(folders))
    (line,) = (line.strip() for line in told.splitlines() if "Predictor.load" in line)
    exec(f"import softprompt_jax\n{line}")
    best = tmp_path / "best"
    assert loaded == {"glue/cola": str(best / "glue--cola"), "squad": str(best / "squad")}
    assert all((Path(folder) / "prompt.safetensors").is_file() for folder in loaded.values())
    assert json.loads((best / "prompts.json").read_text()).keys() == loaded.keys()


def test_a_tuned_model(tmp_path):
    assert f"softprompt_jax.load_model('{tmp_path}/best')" in report(result(tmp_path), "tiny")
