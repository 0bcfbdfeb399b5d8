from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paumer.errors import InputError
from paumer.files import make_folder, write_beside, write_folder_beside, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_text_replaces_the_old_file(tmp_path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "old")
    write_text(tmp_path / "deep" / "er" / "a.txt", "new, ä")
    assert (tmp_path / "deep" / "er" / "a.txt").read_text(encoding="utf-8") == "new, ä"
    assert names(tmp_path / "deep" / "er") == ["a.txt"]


@pytest.mark.parametrize("error", [KeyError("bug"), OSError("disk"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises((KeyError, InputError, KeyboardInterrupt)), write_beside(tmp_path / "a.png") as beside:
        beside.write_text("half")
        raise error
    assert (tmp_path / "a.png").read_text() == "old"
    assert names(tmp_path) == ["a.png"]


def test_the_file_is_not_there_before_the_block_ends(tmp_path):
    with write_beside(tmp_path / "a.png") as beside:
        beside.write_text("x")
        assert not (tmp_path / "a.png").exists()
        assert beside.suffix == ".png" and beside.parent == tmp_path
    assert names(tmp_path) == ["a.png"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("one", "two"):
        with write_folder_beside(tmp_path / "model") as beside:
            (beside / name).write_text(name)
            assert beside.parent == tmp_path
    assert names(tmp_path / "model") == ["two"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [KeyError("bug"), OSError("disk"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    with pytest.raises((KeyError, InputError, KeyboardInterrupt)), write_folder_beside(tmp_path / "model") as beside:
        (beside / "a").write_text("half")
        raise error
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_second_rename_brings_the_old_folder_back(tmp_path, monkeypatch, error):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    replace = os.replace

    def fail_for_the_new(source, target):
        if str(source).endswith(".tmp"):
            raise error
        replace(source, target)

    with pytest.raises((InputError, KeyboardInterrupt)), write_folder_beside(tmp_path / "model") as beside:
        (beside / "a").write_text("new")
        monkeypatch.setattr(os, "replace", fail_for_the_new)
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_file_in_the_way_of_a_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "model").write_text("precious")
    with (
        pytest.raises(InputError, match="a file of that name is in the way"),
        write_folder_beside(tmp_path / "model"),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "model").read_text() == "precious"


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make the folder .*file/runs .*give another place"):
        make_folder(tmp_path / "file" / "runs")


def test_a_folder_in_the_way_of_a_file_is_refused_and_kept(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*a\.txt"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == ["a.txt"]


LIMITED = """
import resource, sys
from paumer.errors import InputError
from paumer.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_text(sys.argv[1], "x" * 5000)
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits of POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "a.txt")]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert "cannot write" in run.stdout and "free some space" in run.stdout
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
