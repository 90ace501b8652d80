"""The empty database that temporary Prefect servers start from."""

import sqlite3
from contextlib import closing

import pytest

from flows.database import DATABASE, cache_database, cached, restore_database

pytestmark = pytest.mark.fast


@pytest.fixture
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    homes = [tmp_path / "first", tmp_path / "second"]
    for home in homes:
        home.mkdir()
    return homes


def test_a_server_starts_from_the_database_of_the_one_before(homes):
    first, second = homes
    restore_database(first)
    assert not any(first.iterdir())
    with closing(sqlite3.connect(first / DATABASE)) as in_use:
        in_use.execute("PRAGMA journal_mode = WAL")
        in_use.execute("CREATE TABLE flow (name)")
        in_use.commit()
        cache_database(first)
        in_use.execute("INSERT INTO flow VALUES ('later')")
        in_use.commit()
        cache_database(first)
    restore_database(second)
    with closing(sqlite3.connect(second / DATABASE)) as restored:
        assert restored.execute("SELECT * FROM flow").fetchall() == []
    assert [path.name for path in cached().parent.iterdir()] == [cached().name]


def test_a_damaged_database_is_not_used(homes):
    cached().parent.mkdir(parents=True)
    cached().write_bytes(b"SQLite format 3\0 and then nothing of it")
    restore_database(homes[0])
    assert not (homes[0] / DATABASE).exists()


def test_servers_do_without_a_cache(homes):
    cached().parent.parent.write_text("a file where the cache should be")
    with closing(sqlite3.connect(homes[0] / DATABASE)):
        cache_database(homes[0])
    restore_database(homes[1])
    assert not (homes[1] / DATABASE).exists()
