"""A station in one file, and back; and files that are no backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backup_helpers import contents, filled_fixture, made_fixture, other_fixture  # noqa: F401
from flawscope.cli import main
from flawscope.errors import InputError
from flawscope_station.store.backup import backup, restore, restore_tables
from flawscope_station.store.backup_check import verify
from flawscope_station.store.database import Database
from flawscope_station.store.files import LOCK_FILE, Files
from flawscope_station.store.records import DEFECT, Store


@pytest.mark.both_databases
def test_files_of_a_station_with_postgresql_come_back_without_its_data_base(
    filled, other, tmp_path, database_url
):
    path = tmp_path / "b.tar"
    backup(filled, path)
    if database_url is None:
        with pytest.raises(InputError, match="is of a station with SQLite: leave `database` out"):
            restore(path, replace(other, database="postgresql://nobody@nowhere/none"))
        assert not Path(other.store).exists()
        return
    with pytest.raises(InputError, match="is of a station with PostgreSQL: name its `database`"):
        restore(path, other)
    assert not Path(other.store).exists()
    restore(path, replace(other, database=filled.database))
    assert contents(other) == contents(filled)


def test_tables_alone_come_back_into_their_station_alone(filled, other, made, tmp_path):
    """As before and after an upgrade: what was recorded since is kept, files are left as they are."""
    path, home = tmp_path / "tables.tar", Path(filled.store)
    backup(filled, path, tables_only=True)
    assert path.stat().st_size < made.stat().st_size / 2
    assert Files(home).disk.backup_at is not None, "of the whole one"
    before, database = contents(filled), Database(filled.url)
    Store(database).add_verdict(1, 2, DEFECT, "bob")
    database.close()
    kept = restore_tables(path, filled)
    assert [one.name for one in kept.iterdir()] == ["station.sqlite"]
    after = {name: one for name, one in contents(filled).items() if kept.name not in name}
    assert {**after, LOCK_FILE: b""} == {**before, LOCK_FILE: b""}
    for where, said in ((home, [DEFECT]), (kept, [DEFECT] * 2)):
        with closing(sqlite3.connect(where / "station.sqlite")) as connection:
            assert [one for (one,) in connection.execute("SELECT verdict FROM verdicts")] == said
    restore(made, other)
    stranger = replace(other, store=str(tmp_path / "stranger"))
    Files(stranger.store).identity()
    with pytest.raises(InputError, match="is of another station"):
        restore_tables(path, stranger)
    with pytest.raises(InputError, match="no backup"):
        restore_tables(Path(__file__), other)


# ------------------------------------------------------------------------------------------- never overwrites


def test_nothing_is_overwritten(made, filled, other):
    before = made.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        backup(filled, made)
    assert made.read_bytes() == before
    with pytest.raises(InputError, match="is not empty"):
        restore(made, filled)
    Path(other.store).mkdir(parents=True)
    note = Path(other.store) / "note.txt"
    note.write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        restore(made, other)
    assert [path.name for path in Path(other.store).iterdir()] == ["note.txt"]
    note.unlink()
    (Path(other.store) / "lost+found").mkdir()
    restore(made, other)


def test_errors_name_the_remedy(filled, tmp_path, capsys):
    def said(*words: str) -> str:
        assert main(["station", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "there is no station" in said("backup", str(tmp_path / "x.tar"), "--station", str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    assert "make it first" in said("backup", str(tmp_path / "no/x.tar"), "--station", filled.store)
    assert "choose another folder" in said("backup", f"{filled.store}/x.tar", "--station", filled.store)
    assert "there is no backup" in said("restore", str(tmp_path / "x.tar"), "--station", str(tmp_path / "no"))


# ----------------------------------------------------------------------------- the settings file, and a check


def test_the_settings_file_is_in_it_with_what_it_includes(filled, tmp_path, capsys):
    (tmp_path / "common").mkdir()
    (tmp_path / "common/station.yaml").write_text("near: 2\n")
    own = tmp_path / "station.yaml"
    own.write_text(f"include: common/station.yaml\nstore: {filled.store}\nproducts: {{}}\n")
    path, there = tmp_path / "b.tar", tmp_path / "there"
    assert main(["station", "backup", str(path), "--settings", str(own)]) == 0
    assert main(["station", "restore", str(path), "--verify"]) == 0
    assert "6 inspections, with the settings file" in capsys.readouterr().out
    assert main(["station", "restore", str(path), "--station", str(there)]) == 0
    assert (there / "settings/station.yaml").read_bytes() == own.read_bytes()
    assert (there / "settings/1-station.yaml").read_text() == "near: 2\n"
    backup(replace(filled, store=str(there)), again := tmp_path / "again.tar")
    assert not verify(again).settings_file, "those of a restored folder are nobody's"


def test_a_check_finds_what_is_damaged_and_writes_nothing(made, filled, tmp_path):
    found = verify(made)
    assert (found.inspections, found.missing, found.settings_file) == (6, 0, False)
    whole, (picture, *_) = made.read_bytes(), sorted((Path(filled.store) / "pictures").rglob("*.*"))
    content = picture.read_bytes()
    before = sorted(tmp_path.rglob("*"))
    made.write_bytes(whole.replace(content, content.upper()))
    with pytest.raises(InputError, match=f"{picture.name} is damaged"):
        verify(made)
    made.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged, or no backup"):
        verify(made)
    assert sorted(tmp_path.rglob("*")) == before
    picture.unlink()
    backup(filled, short := tmp_path / "short.tar")
    assert verify(short).missing == 1
