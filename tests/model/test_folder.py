from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_images, tiny_model

from paumer.errors import InputError
from paumer.model import Segmenter
from paumer.model import folder as folder_module

PAUSE = "2:0.4"


@pytest.fixture(scope="module")
def model():
    return tiny_model(names=("a", "b", "c", "d", "e"), mean=(0.1, 0.2, 0.3), preset="mmseg", crop_size=(64, 64))


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@torch.no_grad()
def test_round_trip_changes_no_bit(model, saved):
    loaded = Segmenter.from_pretrained(saved)
    assert loaded.config == model.config and not loaded.training
    assert torch.equal(loaded(random_images(), PAUSE).logits, model(random_images(), PAUSE).logits)
    assert sorted(files(saved)) == ["README.md", "config.json", "model.safetensors"]


def test_float16_halves_the_file_and_loads_as_float32(model, saved, tmp_path):
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    size, half = ((folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path / "half"))
    assert half < 0.55 * size
    state = Segmenter.from_pretrained(tmp_path / "half").state_dict()
    for key, value in model.state_dict().items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value.half().float()), key


def test_pixel_statistics_are_stored_once_in_the_configuration(saved):
    assert json.loads((saved / "config.json").read_text())["mean"] == [0.1, 0.2, 0.3]
    assert not [key for key in load_file(saved / "model.safetensors") if "pixel" in key]
    assert Segmenter.from_pretrained(saved).pixel_mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_the_card_is_what_was_given_or_names_the_backbone(model, saved):
    assert "test_vit" in (saved / "README.md").read_text()
    model.save_pretrained(saved, card="my card")
    assert (saved / "README.md").read_text() == "my card"


def test_truncated_weights_are_refused(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors is truncated or damaged"):
        Segmenter.from_pretrained(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"is not a model folder: it has no {name}"):
        Segmenter.from_pretrained(saved)


def test_a_file_instead_of_a_folder_is_refused(saved):
    with pytest.raises(InputError, match="is a file, not a model folder"):
        Segmenter.from_pretrained(saved / "model.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not readable JSON"), ("[]", "does not hold a model configuration"), ("\xff", "not readable JSON")],
)
def test_a_damaged_configuration_is_refused(saved, text, message):
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        Segmenter.from_pretrained(saved)


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_an_unknown_key_gets_a_hint(saved):
    change_config(saved, backbones="test_vit")
    with pytest.raises(InputError, match=r"unknown key 'backbones' in .*config.json: did you mean 'backbone'"):
        Segmenter.from_pretrained(saved)


@pytest.mark.parametrize("values", [{"decoder_layers": 3}, {"num_classes": 4, "names": []}, {"aux_head": "none"}])
def test_weights_of_another_architecture_are_refused(saved, values):
    change_config(saved, **values)
    with pytest.raises(InputError, match="are of another architecture"):
        Segmenter.from_pretrained(saved)


def test_a_tensor_too_much_is_refused(saved):
    state = load_file(saved / "model.safetensors")
    save_file({**state, "surplus": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(InputError, match="unknown surplus"):
        Segmenter.from_pretrained(saved)


def test_saving_over_a_model_is_all_or_nothing(model, saved, monkeypatch):
    before = files(saved)

    def fail_half_way(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", fail_half_way)
    with pytest.raises(InputError, match="No space left on device"):
        model.save_pretrained(saved, card="new")
    assert files(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_file_where_the_folder_should_be_is_kept(model, tmp_path):
    (tmp_path / "model").write_text("precious")
    with pytest.raises(InputError, match="a file of that name is in the way"):
        model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "precious"


LIMITED = """
import resource, sys, torch
from paumer.errors import InputError
from paumer.model.folder import write_model_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_model_folder(sys.argv[1], {"new": 1}, {"weight": torch.zeros(100_000)}, "new card")
except InputError as error:
    print("InputError:", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits of POSIX")
def test_a_full_disk_leaves_the_old_model(saved):
    before = files(saved)
    command = [sys.executable, "-c", LIMITED, str(saved)]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("InputError: cannot write") and run.stdout.count("\n") == 1
    assert files(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["paumer/no-such-model", "no such: name", "missing/deep/folder"])
def test_a_hub_name_without_network_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=f"no model at {name}: neither a folder here nor a repository"):
        Segmenter.from_pretrained(name, cache_dir=tmp_path)


@torch.no_grad()
def test_push_to_hub_uploads_a_folder_that_loads(model, tmp_path, monkeypatch):
    calls = []

    class FakeApi:
        def __init__(self, token):
            calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, repo_id, folder_path, commit_message, allow_patterns):
            assert sorted(allow_patterns) == sorted([*files(folder_path), "pareto.json"])  # the front, once swept
            calls.append(("upload", repo_id))
            shutil.copytree(folder_path, tmp_path / "uploaded")
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(folder_module, "HfApi", FakeApi)
    address = model.push_to_hub("tiny", card="a trained model's card", private=True, token="t")
    assert address == "https://hub/me/tiny/commit/1"
    assert calls == [("token", "t"), ("create", "tiny", True, True), ("upload", "me/tiny")]
    assert (tmp_path / "uploaded" / "README.md").read_text() == "a trained model's card"
    loaded = Segmenter.from_pretrained(tmp_path / "uploaded")
    assert torch.equal(loaded(random_images()).logits, model(random_images()).logits)


def test_a_refused_upload_is_one_sentence(model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"cannot upload to me/tiny .*log in with  hf auth login"):
        model.push_to_hub("me/tiny", token="t")
