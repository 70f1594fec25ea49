"""What can be said about a storage beyond its location: what is understood, refused, and never told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import parse_rate
from bfrepo.storage.options import RestOptions, S3Options, StorageOptions, option_names, parse_options


def test_nothing_said_is_the_default() -> None:
    """Without a word every storage has its usual options."""
    assert parse_options([]) == StorageOptions()


def test_every_type_of_value() -> None:
    """Texts, numbers and yes or no are read, each into its own storage's options."""
    options = parse_options(
        ["s3.region=eu-central-1", "s3.path-style=Yes", "s3.connections= 20 ", "rest.connections=3"]
    )
    assert options.s3 == S3Options(region="eu-central-1", path_style=True, connections=20)
    assert options.rest == RestOptions(connections=3)


def test_the_last_word_counts() -> None:
    """Of two values for one option the later one counts; a value may have equals signs in it."""
    options = parse_options(["s3.profile=first", "s3.profile=a=b"])
    assert options.s3.profile == "a=b"


@pytest.mark.parametrize(
    ("pair", "hint"),
    [
        ("s3.regoin=x", "did you mean s3.region?"),
        ("region=x", "did you mean s3.region?"),
        ("s3.region", "did you mean s3.region?"),
        ("=", "there are: "),
        ("ftp.x=1", "there are: "),
    ],
)
def test_unknown_options_are_refused(pair: str, hint: str) -> None:
    """What is no option is an error that says what was meant, or what there is."""
    with pytest.raises(InvalidValue) as caught:
        parse_options([pair])
    assert (caught.value.hint or "").startswith(hint)


@pytest.mark.parametrize("pair", ["s3.path-style=maybe", "s3.connections=0", "s3.connections=-1", "s3.region="])
def test_wrong_values_are_refused(pair: str) -> None:
    """A value that cannot be is an error that names the option."""
    with pytest.raises(InvalidValue, match=pair.partition("=")[0]):
        parse_options([pair])


@pytest.mark.parametrize("name", ["rest.password", "rest.user", "sftp.password"])
def test_secrets_are_no_options(name: str) -> None:
    """Nobody can write a password where every user of the machine could read it."""
    assert name not in option_names()
    with pytest.raises(InvalidValue):
        parse_options([f"{name}=secret"])


def test_secrets_are_in_no_text() -> None:
    """Options that hold a password do not show it."""
    assert "hunter2" not in repr(StorageOptions(rest=RestOptions(user="me", password="hunter2")))


@given(st.lists(st.sampled_from(option_names()), unique=True))
def test_every_name_is_understood(names: list[str]) -> None:
    """Each name that is offered can be set, whatever else is set."""
    assert parse_options([f"{name}=1" for name in names]) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500K", 500 << 10), ("10M", 10 << 20), ("1.5MiB/s", 3 << 19), ("1", 1), (" 2G/s ", 2 << 30)],
)
def test_rates(text: str, expected: int) -> None:
    """A rate is a size, with or without the second it is for."""
    assert parse_rate(text) == expected


@pytest.mark.parametrize("text", ["0", "0.1", "", "fast", "10M/h", "-1"])
def test_no_rates(text: str) -> None:
    """What is no rate is refused, and so is one at which nothing would pass."""
    with pytest.raises(InvalidValue):
        parse_rate(text)
