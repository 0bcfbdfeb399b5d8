from __future__ import annotations

import pytest

from paumer.errors import InputError, MissingExtraError, did_you_mean


def test_input_error_is_a_value_error():
    with pytest.raises(ValueError, match=r"^no such thing$"):
        raise InputError("no such thing")


def test_missing_extra_names_the_install_line_and_is_an_input_error():
    with pytest.raises(InputError, match=r"^reading videos needs .* pip install 'paumer\[video\]'$"):
        raise MissingExtraError("reading videos", "video")


def test_did_you_mean_gives_the_near_match_alone():
    assert did_you_mean("entorpy", ["entropy", "margin"]) == "did you mean 'entropy'?"


def test_did_you_mean_lists_every_option_when_none_is_near():
    assert did_you_mean("xyz", iter(["entropy", "margin"])) == "known: entropy, margin"
