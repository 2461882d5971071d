"""Files that no record needs leave, and nobody waits for that."""

import threading

from flawscope_station.store.files import Files

ONE, OTHER = "ab" * 32, "cd" * 32


def test_the_data_base_is_asked_about_a_file_while_others_are_held_and_released(tmp_path):
    """It may be slow: under the lock of all files each new picture would wait for it."""
    files, path = Files(tmp_path), tmp_path / "a.png"
    path.write_bytes(b"one")

    def hold_another() -> None:
        files.hold(OTHER)
        files.release(OTHER)

    def is_unneeded() -> bool:
        thread = threading.Thread(target=hold_another, daemon=True)
        thread.start()
        thread.join(10)
        return not thread.is_alive()

    assert files.discard(path, ONE, is_unneeded)
    assert not path.exists()


def test_a_file_that_comes_again_while_it_is_asked_about_stays(tmp_path):
    files, path = Files(tmp_path), tmp_path / "a.png"
    path.write_bytes(b"one")

    def comes_again() -> bool:
        files.hold(ONE)
        return True

    assert not files.discard(path, ONE, comes_again)
    assert path.read_bytes() == b"one"
    files.release(ONE)
    assert files.discard(path, ONE, lambda: True)
