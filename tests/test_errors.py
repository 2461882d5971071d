"""Failures keep their kind on their way, and a full disk is known by its number, not by its words."""

import errno
import json
import pickle
from pathlib import Path

import pytest

from flawscope.artefact.files import is_full_disk, write_error
from flawscope.errors import UNREAD, Failure, InputError, failure_of
from flawscope.pictures.decoding import decode


def unread(path: Path) -> InputError:
    path.write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        decode(path)
    return caught.value


def test_a_failure_is_a_text_that_keeps_its_kind(tmp_path):
    """Through an error, another process and a second error."""
    error = pickle.loads(pickle.dumps(InputError(failure_of(unread(tmp_path / "a: b.png")))))
    found = failure_of(error)
    assert (found.kind, found.name) == (UNREAD, str(tmp_path / "a: b.png"))
    assert found == f"cannot read picture {found.name}: {found.reason}" == str(error)
    assert found.reason == "it is not a picture we know; convert it to PNG"
    assert json.loads(json.dumps([found])) == [str(found)]


def test_a_failure_of_another_kind_says_only_its_text():
    found = failure_of(InputError("two\nlines"))
    assert (found, found.kind, found.reason) == (Failure("two lines"), "", "")


def test_a_full_disk_is_known_behind_other_errors():
    full, other = OSError(errno.ENOSPC, "no room"), OSError(errno.EACCES, "No space left on device")
    assert is_full_disk(full)
    assert is_full_disk(write_error(Path("a/b"), full))
    assert not is_full_disk(other)
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("the library says nothing") from full
    assert is_full_disk(caught.value)
