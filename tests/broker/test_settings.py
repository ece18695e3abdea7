"""Settings: what is read, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.settings import Settings, SettingsError

SECRET = "correct-horse"
URL = f"postgresql://broker:{SECRET}@db/fetchlock"


def reasons(**environment: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({f"FETCHLOCK_{name}": text for name, text in environment.items()})
    return caught.value.reasons


def test_nothing_given_is_the_defaults() -> None:
    assert Settings.from_environment({"PATH": "/bin"}) == Settings()


def test_the_defaults_are_values_that_may_be_given() -> None:
    given = {
        f"FETCHLOCK_{name.upper()}": str(getattr(Settings(), name)).replace("True", "true")
        for name in Settings.__struct_fields__
        if name not in ("database_url", "public_url")
    }
    assert Settings.from_environment(given) == Settings()


def test_each_type_is_read() -> None:
    settings = Settings.from_environment(
        {
            "FETCHLOCK_DATABASE_URL": URL,
            "FETCHLOCK_PORT": "0",
            "FETCHLOCK_NOTIFY": "false",
            "FETCHLOCK_RETRY_FACTOR": "1.5",
            "FETCHLOCK_LOG_FORMAT": "json",
        }
    )
    assert settings == Settings(
        database_url=URL, port=0, notify=False, retry_factor=1.5, log_format="json"
    )


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = reasons(PORT="http", POOL_SIZE="0", NOTIFY="yes", LOG_LEVEL="loud", POOLSIZE="4")
    assert [reason.partition(":")[0].removeprefix("FETCHLOCK_") for reason in told] == [
        "PORT",
        "POOL_SIZE",
        "NOTIFY",
        "LOG_LEVEL",
        "POOLSIZE",
    ]


def test_an_unknown_name_gets_a_suggestion() -> None:
    assert reasons(POOLSIZE="4") == [
        "FETCHLOCK_POOLSIZE: no such setting. Did you mean FETCHLOCK_POOL_SIZE?"
    ]


@pytest.mark.parametrize("text", ["", "8.0", "1e1", "0x10", "+8", "1_0", "eight", "NaN"])
def test_a_whole_number_is_written_as_one(text: str) -> None:
    assert len(reasons(POOL_SIZE=text)) == 1


@pytest.mark.parametrize("text", ["", "NaN", "Infinity", "0.5", "two"])
def test_a_factor_is_a_finite_number_in_its_bounds(text: str) -> None:
    assert len(reasons(RETRY_FACTOR=text)) == 1


@pytest.mark.parametrize("text", ["", "yes", "1", "True", "on"])
def test_a_boolean_is_true_or_false(text: str) -> None:
    assert len(reasons(NOTIFY=text)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_it_listens_on_loopback(host: str) -> None:
    assert Settings.from_environment({"FETCHLOCK_HOST": host}).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.x.org"])
def test_it_listens_nowhere_else_and_says_why(host: str) -> None:
    (reason,) = reasons(HOST=host)
    assert "no authentication" in reason


def test_the_address_for_outside_parties_is_one_of_http() -> None:
    url = "https://example.org/broker"
    assert Settings.from_environment({"FETCHLOCK_PUBLIC_URL": url}).public_url == url
    for refused in ("", "example.org", "ftp://example.org", "https://example.org/?a=1"):
        (reason,) = reasons(PUBLIC_URL=refused)
        assert reason.startswith("FETCHLOCK_PUBLIC_URL: ")


def test_contradictions_are_told() -> None:
    told = reasons(LOCK_DURATION_MS_MIN="2000", LOCK_DURATION_MS_MAX="1000")
    assert told == ["FETCHLOCK_LOCK_DURATION_MS_MIN: above FETCHLOCK_LOCK_DURATION_MS_MAX."]


def test_the_database_may_be_named_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "database_url"
    secret.write_text(f"{URL}\n")
    settings = Settings.from_environment({"FETCHLOCK_DATABASE_URL_FILE": str(secret)})
    assert settings.database_url == URL


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (reason,) = reasons(DATABASE_URL_FILE=str(tmp_path / "missing"))
    assert "FETCHLOCK_DATABASE_URL_FILE" in reason


def test_the_database_is_named_once(tmp_path: Path) -> None:
    (reason,) = reasons(DATABASE_URL=URL, DATABASE_URL_FILE=str(tmp_path))
    assert "twice" in reason


def test_only_secrets_come_from_files() -> None:
    assert reasons(PORT_FILE="/run/port") == [
        "FETCHLOCK_PORT_FILE: no such setting. Did you mean FETCHLOCK_PORT?"
    ]


def test_the_database_url_is_never_shown() -> None:
    settings = Settings(database_url=URL)
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in str(settings.__rich_repr__())


def test_a_refused_database_url_is_not_shown_either() -> None:
    (reason,) = reasons(DATABASE_URL=f"mysql://broker:{SECRET}@db")
    assert SECRET not in reason
