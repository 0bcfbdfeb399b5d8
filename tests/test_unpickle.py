from __future__ import annotations

import argparse
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from paumer.errors import InputError
from paumer.unpickle import StandIn, load_foreign, load_variant

WEIGHTS = {"meta": {"epoch": 3, "classes": ("road", "sky")}, "state_dict": {"w": torch.arange(6.0).reshape(2, 3)}}


class Touch:
    """Pickled, asks whoever loads it to call ``function`` with something that makes a file."""

    def __init__(self, function, argument):
        self.function, self.argument = function, argument

    def __reduce__(self):
        return self.function, (self.argument,)


@pytest.fixture(params=["zip", "old"])
def save(request):
    """torch.save in the present and in the pre-1.6 format."""
    return lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=request.param == "zip")


def test_both_formats_of_torch_save_load(tmp_path, save):
    save(WEIGHTS, tmp_path / "a.pth")
    loaded = load_foreign(tmp_path / "a.pth")
    assert loaded["meta"] == WEIGHTS["meta"]
    assert torch.equal(loaded["state_dict"]["w"], WEIGHTS["state_dict"]["w"])


def test_safetensors_load(tmp_path):
    save_file(WEIGHTS["state_dict"], tmp_path / "a.safetensors")
    assert torch.equal(load_foreign(tmp_path / "a.safetensors")["w"], WEIGHTS["state_dict"]["w"])


@pytest.fixture
def history_buffer(monkeypatch):
    """A class under mmengine's name, for writing a file as mmengine does."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    buffer = HistoryBuffer()
    buffer._log_history, buffer._count_history, buffer.max_length = np.array([1.5, 2.5]), np.array([1, 1]), 1000
    return buffer


@pytest.mark.parametrize("numpy_module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_mmengine_logs_load_as_inert_stand_ins(tmp_path, monkeypatch, history_buffer, numpy_module):
    logs = {
        "log_scalars": {"train/loss": history_buffer},
        "best": np.float64(0.5),
        "palette": np.zeros((2, 3), np.uint8),
    }
    # The old format is not compressed or checksummed, so names of NumPy 1 can be put in.
    torch.save(WEIGHTS | {"message_hub": logs}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    written = (tmp_path / "a.pth").read_bytes()
    assert b"numpy._core.multiarray" in written and b"HistoryBuffer" in written
    (tmp_path / "a.pth").write_bytes(written.replace(b"numpy._core.multiarray", numpy_module))
    monkeypatch.delitem(sys.modules, "mmengine.logging.history_buffer")

    loaded = load_foreign(tmp_path / "a.pth")
    assert torch.equal(loaded["state_dict"]["w"], WEIGHTS["state_dict"]["w"])
    buffer = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert type(buffer) is StandIn and buffer.state["max_length"] == 1000
    assert type(loaded["message_hub"]["best"]) is StandIn and type(loaded["message_hub"]["palette"]) is StandIn


def test_mmengine_logs_load_from_a_zip_too(tmp_path, history_buffer):
    torch.save(WEIGHTS | {"message_hub": history_buffer}, tmp_path / "a.pth")
    assert type(load_foreign(tmp_path / "a.pth")["message_hub"]) is StandIn


def test_classes_that_other_libraries_allowed_are_not_used_and_stay_allowed(tmp_path, save):
    save(WEIGHTS | {"array": np.zeros(3)}, tmp_path / "a.pth")
    real = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, argparse.Namespace]
    with torch.serialization.safe_globals(real):
        before = set(torch.serialization.get_safe_globals())
        assert type(load_foreign(tmp_path / "a.pth")["array"]) is StandIn
        save({"args": argparse.Namespace()}, tmp_path / "b.pth")
        with pytest.raises(InputError, match="asks to run code"):
            load_foreign(tmp_path / "b.pth")
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(("function", "name"), [(os.system, f"{os.name}.system"), (exec, "exec"), (os.mkdir, "mkdir")])
def test_a_file_that_asks_to_run_code_is_refused_and_runs_nothing(tmp_path, save, function, name):
    canary = tmp_path / "canary"
    argument = {"exec": f"open({str(canary)!r}, 'w')", "mkdir": str(canary)}.get(name, f"touch '{canary}'")
    save(WEIGHTS | {"state_dict": Touch(function, argument)}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=rf"asks to run code \(.*{name}\); refused, nothing was executed"):
        load_foreign(tmp_path / "evil.pth")
    assert not canary.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the trap is real
    assert canary.exists()


def test_a_bare_pickle_that_asks_to_run_code_is_refused(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Touch(os.system, f"touch '{canary}'"), protocol=2))
    with pytest.raises(InputError, match="refused, nothing was executed"):
        load_foreign(tmp_path / "evil.pth")
    assert not canary.exists()


def test_a_class_that_is_not_on_the_list_is_named(tmp_path, save):
    save({"args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"\(argparse\.Namespace\).*save it again with only its state_dict"):
        load_foreign(tmp_path / "a.pth")


def test_a_whole_pickled_module_is_refused(tmp_path, save):
    save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_foreign(tmp_path / "a.pth")


def test_something_that_is_no_dictionary_is_refused(tmp_path, save):
    save(torch.zeros(3), tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds a Tensor, not a checkpoint"):
        load_foreign(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path, save, share):
    save({"w": torch.zeros(10_000)}, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cut short|damaged"):
        load_foreign(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"<html>404</html>\n", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(range(256)) * 8])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*damaged") as error:
        load_foreign(tmp_path / name)
    assert "\n" not in str(error.value)


def test_another_zip_file_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"not written by torch\.save"):
        load_foreign(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_path_without_a_file_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="no checkpoint file"):
        load_foreign(tmp_path / name)


def test_variant_with_python_tuples_loads_them_as_lists(tmp_path):
    (tmp_path / "variant.yml").write_text(
        "net_kwargs:\n  d_model: 192\n  image_size: !!python/tuple\n  - 512\n  - 512\n  n_heads: 3\n"
    )
    net = load_variant(tmp_path / "variant.yml")["net_kwargs"]
    assert net == {"d_model": 192, "image_size": [512, 512], "n_heads": 3}


def test_variant_that_asks_to_run_code_is_refused_and_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "variant.yml").write_text(f"a: !!python/object/apply:os.system ['touch {canary}']\n")
    with pytest.raises(InputError, match="could not determine a constructor") as error:
        load_variant(tmp_path / "variant.yml")
    assert not canary.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"just words", b"- 1\n- 2\n", b"a: [1, 2\n", b"\xff\xfe\x00\x80", b"a: \x01"])
def test_variant_that_is_no_settings_file_is_refused(tmp_path, content):
    (tmp_path / "variant.yml").write_bytes(content)
    with pytest.raises(InputError, match=r"variant\.yml"):
        load_variant(tmp_path / "variant.yml")
