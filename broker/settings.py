"""What an operator may turn, read once at the start from FETCHLOCK_* and never changed again.

Settings travel by constructor: no module imports a value from here. A name
that is not known and every value that is not allowed are reported together,
because an operator who must restart once for each typo stops reading.

The database's address may hold a password. It must never be shown: not in a
repr, not in a refusal, not in a log line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, structs

PREFIX = "FETCHLOCK_"

_SECRETS = frozenset({"DATABASE_URL"})
"""May also be given as the name of a file (`…_FILE`), as container platforms hand them out."""


class SettingsError(Exception):
    """The environment makes no `Settings`. `reasons` holds every one of the reasons."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = reasons


_PostgresUrl = Annotated[str, Meta(pattern="^postgres(ql)?://")]
_HttpUrl = Annotated[str, Meta(pattern=r"^https?://[^\s?#]+$")]


def _within(least: float, most: float, meaning: str) -> Meta:
    return Meta(ge=least, le=most, description=meaning)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One broker's settings. The words beside a field are shown when its value is refused."""

    database_url: Annotated[_PostgresUrl | None, Meta(description="Where PostgreSQL is.")] = None
    host: Annotated[
        str,
        Meta(
            pattern=r"^(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1)$",
            description="Loopback addresses only: the broker has no authentication yet.",
        ),
    ] = "127.0.0.1"
    port: Annotated[int, _within(0, 65_535, "0 lets the system choose.")] = 8080
    processes: Annotated[int, _within(1, 64, "Broker processes sharing the port.")] = 1

    # One connection with batches of 100 beats eight on two cores: more of them only make
    # PostgreSQL switch between them.
    pool_size: Annotated[int, _within(1, 64, "PostgreSQL connections of a process.")] = 4
    notify: Annotated[bool, Meta(description="Wake other processes by NOTIFY.")] = True
    statement_timeout_ms: Annotated[int, _within(100, 600_000, "Given up then.")] = 10_000

    retry_attempts: Annotated[int, _within(1, 1_000, "Failures until an incident.")] = 3
    retry_base_ms: Annotated[int, _within(0, 86_400_000, "The first wait, at most.")] = 1_000
    retry_factor: Annotated[float, _within(1, 100, "What each further wait grows by.")] = 2.0
    retry_cap_ms: Annotated[int, _within(0, 86_400_000, "No retry waits longer.")] = 300_000
    max_expiries: Annotated[int, _within(1, 1_000, "Locks lost until a task is poison.")] = 5

    # A checkpoint is written anew with each change, beside the hot rows.
    checkpoint_bytes_max: Annotated[int, _within(2, 1_048_576, "Of a checkpoint.")] = 65_536
    # A task whose log is larger wants a file store, and a link to it.
    log_lines_max: Annotated[int, _within(1, 1_000_000, "Log lines of a task.")] = 10_000
    log_lines_per_minute_max: Annotated[int, _within(1, 1_000_000, "Of a task.")] = 1_000
    hand_over_timeout_ms: Annotated[
        int, _within(1_000, 31_536_000_000, "How long a callback is waited for, unless said.")
    ] = 86_400_000
    public_url: Annotated[
        _HttpUrl | None,
        Meta(description="Where outside parties reach this broker. Absent: as the worker does."),
    ] = None

    max_tasks_max: Annotated[int, _within(1, 10_000, "Tasks of one fetch.")] = 1_000
    lock_duration_ms_min: Annotated[int, _within(1, 86_400_000, "The shortest lock.")] = 1_000
    lock_duration_ms_max: Annotated[int, _within(1, 604_800_000, "The longest.")] = 86_400_000
    request_timeout_ms_max: Annotated[int, _within(0, 1_800_000, "The longest poll.")] = 1_800_000
    subscriptions_max: Annotated[int, _within(1, 1_000, "Subscriptions of one fetch.")] = 100
    # A topic is part of a unique index, whose entries may have some 2,700 bytes: four for each
    # character, and a process definition's id beside it.
    topic_length_max: Annotated[int, _within(1, 400, "Characters of a topic.")] = 255
    # A body is held in memory several times while it is taken apart, here and in PostgreSQL.
    body_bytes_max: Annotated[int, _within(1_024, 67_108_864, "Of a request.")] = 1_048_576
    batch_body_bytes_max: Annotated[int, _within(1_024, 67_108_864, "Of a batch.")] = 8_388_608
    batch_tasks_max: Annotated[int, _within(1, 10_000, "Tasks of one batch.")] = 1_000
    # What is set adds up: twice a body, so that any variable can be replaced by one as large.
    variables_bytes_max: Annotated[
        int, _within(1_024, 134_217_728, "Of a task's variables, once some were set.")
    ] = 2_097_152
    # Readers of JSON go down by recursion, here and at the workers: depth is stack.
    json_depth_max: Annotated[int, _within(1, 256, "How deep variables may nest.")] = 64
    waiters_max: Annotated[int, _within(1, 1_000_000, "Parked polls of a process.")] = 20_000

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Allowed: debug, info, warning, error."),
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"], Meta(description="Allowed: console, json.")
    ] = "console"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The settings that FETCHLOCK_* describe. Raises `SettingsError` with all that is wrong."""
        given = {
            name.removeprefix(PREFIX): text
            for name, text in environment.items()
            if name.startswith(PREFIX)
        }
        values: dict[str, Any] = {}
        reasons: list[str] = []
        for field in structs.fields(cls):
            name = field.name.upper()
            try:
                if (text := _take(given, name)) is not None:
                    values[field.name] = _parse(text, field)
            except ValueError as refusal:
                reasons.append(f"{PREFIX}{name}: {refusal}")
        reasons += [f"{PREFIX}{name}: no such setting.{_suggestion(name)}" for name in given]
        settings = cls(**values)
        if reasons := reasons or list(settings._contradictions()):
            raise SettingsError(reasons)
        return settings

    def _contradictions(self) -> Iterator[str]:
        if self.lock_duration_ms_min > self.lock_duration_ms_max:
            yield f"{PREFIX}LOCK_DURATION_MS_MIN: above {PREFIX}LOCK_DURATION_MS_MAX."
        if self.body_bytes_max > self.batch_body_bytes_max:
            yield f"{PREFIX}BODY_BYTES_MAX: above {PREFIX}BATCH_BODY_BYTES_MAX."

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            (name, "…" if name.upper() in _SECRETS and value else value)
            for name, value in structs.asdict(self).items()
        ]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


def _take(given: dict[str, str], name: str) -> str | None:
    text = given.pop(name, None)
    path = given.pop(f"{name}_FILE", None) if name in _SECRETS else None
    if path is None:
        return text
    if text is not None:
        raise ValueError(f"given twice, here and in {PREFIX}{name}_FILE.")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file of {PREFIX}{name}_FILE cannot be read: {error}.") from error


def _parse(text: str, field: structs.FieldInfo) -> Any:
    """`text` as the field's type. Numbers and booleans are written as in JSON: no 1_000, no yes."""
    try:
        if isinstance(field.default, bool | int | float):
            return msgspec.json.decode(text, type=field.type)
        return msgspec.convert(text, field.type)
    except msgspec.ValidationError as error:
        reason = f"{error}."
    except msgspec.DecodeError:
        reason = "Expected true or false." if field.default is True else "Expected a number."
    meaning = [note.description or "" for note in get_args(field.type) if isinstance(note, Meta)]
    raise ValueError(" ".join([reason, *meaning]))


def _suggestion(name: str) -> str:
    known = [field.upper() for field in Settings.__struct_fields__]
    return "".join(f" Did you mean {PREFIX}{near}?" for near in get_close_matches(name, known, n=1))
