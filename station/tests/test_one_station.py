"""One station for each database: who claims it, and what becomes of one that several stations shared."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from flawscope.errors import InputError
from flawscope_station.settings.station import ProductSettings, Settings
from flawscope_station.store.database import Database
from flawscope_station.store.files import PICTURES, Files
from flawscope_station.store.records import Store
from flawscope_station.store.schema import stations
from flawscope_station.store.station_identity import claim_identity, public_address


@pytest.fixture
def shared_url(postgres):
    """Of an empty database."""
    with postgres.database() as url:
        yield url


@pytest.mark.both_databases
def test_a_name_goes_with_the_folder(database, database_url, tmp_path):
    files = Files(tmp_path / "files")
    claim_identity(database, files, "line1")
    number = Store(database).add_product("plate")
    claim_identity(database, files, "renamed")
    assert Store(database).add_product("plate") == number
    with database.reading() as connection:
        assert connection.execute(select(stations.c.name)).scalars().all() == ["renamed"]
    other = Files(tmp_path / "other")
    if database_url is None:  # the database was moved without the rest of its folder
        claim_identity(database, other, "renamed")
        assert Store(database).add_product("plate") == number
    else:
        for name in ("renamed", "line2"):  # a second station, whatever it is called
            with pytest.raises(InputError, match="is the database of another station, whose folder is not"):
                claim_identity(database, other, name)
        other.identity_path.write_text(files.identity() + "\n")
        claim_identity(database, other, "renamed")


def test_a_folder_with_pictures_of_another_data_base_is_refused(database, tmp_path):
    """Else they would be taken for nobody's, and removed."""
    files = Files(tmp_path / "files")
    files.keep(PICTURES, b"somebody's", ".png")
    with pytest.raises(InputError, match=r"has pictures that .* does not know: choose an empty `store`"):
        claim_identity(database, files, "line1")
    files.identity_path.write_text("nonsense")
    with pytest.raises(InputError, match="is damaged: it holds 'nonsense'"):
        claim_identity(database, files, "line1")


def test_of_stations_that_come_at_once_one_is_let_in(shared_url, tmp_path):
    """Also where the tables are to be made."""
    url = Settings(database=shared_url).url

    def come(number: int) -> str:
        database = Database(url)
        try:
            database.migrate()
            claim_identity(database, Files(tmp_path / str(number)), f"line{number}")
            return "here"
        except InputError as error:
            return str(error)
        finally:
            database.close()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(come, range(6)))
    assert found.count("here") == 1
    assert sum("is the database of another station" in one for one in found) == 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"host": "10.0.0.7"}, "http://10.0.0.7:8080"),
        ({"host": "fd00::7", "port": 81}, "http://[fd00::7]:81"),
        ({"public": ("line.example:8080", "other")}, "http://line.example:8080"),
        ({"public": ("line.example",), "proxy": True}, "https://line.example"),
    ],
)
def test_the_address_is_where_others_reach_it(given, expected):
    assert public_address(Settings(products={"plate": ProductSettings("x")}, **given)) == expected
