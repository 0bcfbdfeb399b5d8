"""A run on disk: what a killed run leaves, which checkpoints stay, what is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from paumer.errors import InputError
from paumer.run_folder import RunFolder

STATE = {"optimizer": {"state": {}}, "scaler": {}}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.open({"lr": 0.1})
    return run


def save(run: RunFolder, step: int, keep: int = 2) -> Path:
    return run.save(step, tiny_model(seed=step), None, STATE, {"best": 1.5, "latest": {}}, keep)


def test_the_newest_checkpoint_is_loaded_as_it_was_saved(run):
    save(run, 5)
    model = tiny_model(seed=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.encoder.pos_embed.sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "scaler": {}}
    average = {"n_averaged": torch.tensor(3), "module.x": torch.randn(4, 2).T}
    run.save(12, model, average, state, {"best": -float("inf"), "latest": {"miou": {"none": 7.0}}}, keep=2)
    weights, ema, loaded, progress = run.load_latest()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, ema[key]) for key, value in average.items())
    momenta = {key: value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    assert momenta and all(
        torch.equal(v, loaded["optimizer"]["state"][k]["momentum_buffer"]) for k, v in momenta.items()
    )
    assert progress == {"step": 12, "best": -float("inf"), "latest": {"miou": {"none": 7.0}}}


def test_a_new_run_has_no_checkpoint(run):
    assert run.checkpoints() == [] and run.load_latest() is None


def test_only_the_newest_checkpoints_are_kept(run):
    for step in (900, 1000, 10000):
        save(run, step, keep=2)
    assert [path.name for path in run.checkpoints()] == ["step_00001000", "step_00010000"]
    assert sorted(os.listdir(run.path / "checkpoints")) == ["step_00001000", "step_00010000"]


def test_leftovers_of_a_killed_run_are_never_read_and_are_taken_away(run):
    save(run, 5)
    halves = [
        run.path / "checkpoints" / ".step_00000009.1234abcd.tmp",
        run.path / "checkpoints" / ".step_00000003.old",
        run.path / ".last.1234abcd.tmp",
        run.path / ".best.1234abcd.old",
    ]
    for half in halves:
        half.mkdir()
        (half / "progress.json").write_text("{")
    (run.path / ".config.1234abcd.tmp.yaml").write_text("lr")
    (run.path / ".notes").write_text("not ours")
    assert run.load_latest()[-1]["step"] == 5
    run.open({"lr": 0.1}, step=5)
    assert not any(half.exists() for half in halves)
    assert {path.name for path in run.path.iterdir()} == {"checkpoints", "config.yaml", ".notes"}


def test_a_save_that_fails_leaves_the_older_checkpoint(run, monkeypatch):
    save(run, 5)

    def no_space(*args):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(InputError, match="free some space and go on with --resume"):
        save(run, 10)
    assert os.listdir(run.path / "checkpoints") == ["step_00000005"]


def test_log_lines_of_steps_to_be_done_again_are_dropped(run):
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 0.5})
    with open(run.metrics, "a") as handle:
        handle.write('{"step": 2, "lo')
    run.open({"lr": 0.1}, step=2)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]


def test_a_checkpoint_is_not_unpickled_as_code(run, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = save(run, 5)
    torch.save(Code(), path / "optimizer.pt")
    with pytest.raises(pickle.UnpicklingError):
        run.load_latest()
    assert not (tmp_path / "executed").exists()


def test_the_check_compares_values_as_yaml_gives_them_back(run):
    config = {"lr": 1e-5, "crop_size": (64, 64), "class_weight": None, "out": "a", "workers": 1}
    run.open(config)
    run.check({**config, "crop_size": [64, 64]}, resume=True)
    run.check({**config, "out": "b", "workers": 4}, resume=True)
    with pytest.raises(InputError, match=r"crop_size was \[64, 64\] and is now \[64, 32\]"):
        run.check({**config, "crop_size": (64, 32)}, resume=True)
    with pytest.raises(InputError, match="already holds a run"):
        run.check(config, resume=False)


def test_a_run_older_than_an_option_goes_on_with_its_default(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open({"steps": 5})
    run.check({"steps": 5, "freeze": False, "window": (8, 8)}, True, {"freeze": False, "window": (8, 8)})
    with pytest.raises(InputError, match="freeze was False and is now True"):
        run.check({"steps": 5, "freeze": True}, True, {"freeze": False})
