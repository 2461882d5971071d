"""The first account of an open station, made over HTTP, leaves somebody who can sign in and add others."""

from __future__ import annotations

import pytest

from flawscope_station.access.authenticator import Access
from flawscope_station.access.roles import LOCAL_PERSON, Person
from flawscope_station.web.accounts_api import NewToken, NewUser, add_token, add_user
from flawscope_station.web.challenge_api import NewChallengePart
from flawscope_station.web.errors import RefusedError

PASSWORD = "four words are enough"


def test_the_first_token_of_an_open_station_without_users_is_refused_and_nothing_changes(database):
    access = Access(database)
    with pytest.raises(RefusedError, match="first add a user") as caught:
        add_token(NewToken(name="camera1"), access, LOCAL_PERSON)
    assert (caught.value.status, caught.value.code) == (409, "no_users")
    assert "\n" not in str(caught.value)
    assert access.is_open
    assert access.tokens.all() == []


@pytest.mark.parametrize("role", ["viewer", "operator", "engineer"])
def test_the_first_user_of_an_open_station_is_an_administrator(database, role):
    access = Access(database)
    with pytest.raises(RefusedError, match="begin with an admin") as caught:
        add_user(NewUser(name="anna", password=PASSWORD, role=role), access, LOCAL_PERSON)
    assert (caught.value.status, caught.value.code) == (409, "no_admin")
    assert access.is_open
    add_user(NewUser(name="anna", password=PASSWORD, role="admin"), access, LOCAL_PERSON)
    assert not access.is_open
    assert add_token(NewToken(name="camera1"), access, Person("anna", "admin"))["token"]


@pytest.mark.parametrize(
    ("word", "decision"),
    [("niO", "anomalous"), ("NOK", "anomalous"), ("defective", "anomalous"), ("iO", "good"), ("ok", "good")],
)
def test_a_challenge_part_is_expected_in_the_words_of_the_shop_floor(word, decision):
    assert NewChallengePart(name="plate-03", expected=word).expected == decision


@pytest.mark.parametrize("word", ["maybe", "1. Wahl", "", 3])
def test_a_word_that_nobody_knows_is_refused(word):
    with pytest.raises(ValueError, match="'good' or 'anomalous'"):
        NewChallengePart(name="plate-03", expected=word)
