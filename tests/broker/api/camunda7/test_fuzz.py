"""Every route of the dialect under whatever hypothesis thinks of.

Never a 5xx, every refusal in Camunda's form, and whatever was said, no task is lost.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import httpx2
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.api.camunda7.routes import ROOT, ROUTES
from broker.api.native.routes import ROOT as NATIVE
from tests.broker.api.camunda7.scene import LISTED_KEYS, LOCKED_KEYS, assert_done, assert_refused
from tests.processes import BrokerProcess

EXAMPLES: Final = 25
"""Of each route."""
TASKS: Final = 60
TIMEOUT_MS_MAX: Final = 20
"""The broker's limit, so that no poll that is thought of waits longer."""

Strategy = st.SearchStrategy[Any]


def _rarely(usual: Strategy, others: Strategy, *, in_tens: int = 1) -> Strategy:
    # Counted down from ten: what is simplest to hypothesis comes most often, and is usual.
    return st.integers(0, 9).flatmap(lambda number: others if number >= 10 - in_tens else usual)


TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=20)
JSON: Final[Strategy] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
WORKERS: Final = st.sampled_from(["w1", "w2"])
TOPICS: Final = st.sampled_from(["t", "u", "nobody's"])
DURATIONS: Final = st.sampled_from([1, 999.5, 1_000, 60_000])
SMALL: Final = st.integers(0, 3)
FLAGS: Final = st.sampled_from([True, False, 0, 1, None])
INDEXES: Final = st.integers(0, TASKS - 1)
TASK: Final = INDEXES.map("task:{}".format)
ID: Final = _rarely(TASK, TEXT | st.sampled_from(["i1", "i2", "%00", "\0", "a/b"]), in_tens=3)
"""An id that begins so is of one of the tasks."""
NAMES: Final = st.sampled_from(["a", "b", "c", "file"]) | TEXT
TYPES: Final = st.sampled_from(
    ["Null", "boolean", "Short", "integer", "LONG", "Double", "Number", "String", "Date", "Bytes",
     "Json", "Xml", "Object", "File", "Decimal", "", None]
)  # fmt: skip
INFOS: Final = st.none() | st.dictionaries(
    st.sampled_from(
        ["filename", "mimetype", "encoding", "objectTypeName", "serializationDataFormat", "x"]
    ),
    st.sampled_from(["a/b", "utf-8", None]) | JSON,
    max_size=3,
)
VALUES: Final = JSON | st.sampled_from(
    ["AAE=", "5", "2026-01-31T10:00:00.123+0000", "9999-12-31T23:59:59.999-1400", "[1", "null"]
)
VARIABLES: Final = st.none() | st.dictionaries(
    NAMES,
    st.fixed_dictionaries({}, optional={"value": VALUES, "type": TYPES, "valueInfo": INFOS}),
    max_size=3,
)
SORTING: Final = st.none() | st.lists(
    st.fixed_dictionaries(
        {
            "sortBy": st.sampled_from(["createTime", "id", "taskPriority", "lockExpirationTime"]),
            "sortOrder": st.sampled_from(["asc", "desc"]),
        }
    ),
    max_size=3,
)
LISTS: Final = st.none() | st.lists(ID, max_size=3)
TOPIC: Final = st.fixed_dictionaries(
    {"topicName": TOPICS, "lockDuration": DURATIONS},
    optional={
        "variables": st.none() | st.lists(NAMES, max_size=3),
        "businessKey": st.none() | TEXT,
        "processDefinitionVersionTag": st.none() | TEXT | st.sampled_from(["%", "_\\", "\\"]),
        "processDefinitionKeyIn": LISTS,
        "tenantIdIn": LISTS,
        "withoutTenantId": FLAGS,
        "processVariables": st.none() | st.dictionaries(NAMES, JSON, max_size=3),
        "deserializeValues": FLAGS,
    },
)
CONDITIONS: Final = st.none() | st.lists(
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "operator": st.sampled_from(["eq", "neq", "gt", "lteq", "like", "notLike", "x"]),
            "value": VALUES,
        }
    ),
    max_size=2,
)
DATES: Final = st.sampled_from(
    ["2013-01-23T14:42:45.000+0200", "0001-01-01T00:00:00.000+1400", "2026-01-31", "", None]
)
QUERY: Final[dict[str, Strategy]] = {
    "externalTaskId": st.none() | ID,
    "externalTaskIdIn": LISTS,
    "topicName": st.none() | TOPICS,
    "workerId": st.none() | WORKERS,
    "locked": FLAGS,
    "notLocked": FLAGS,
    "withRetriesLeft": FLAGS,
    "noRetriesLeft": FLAGS,
    "lockExpirationAfter": DATES,
    "lockExpirationBefore": DATES,
    "executionId": st.none() | ID,
    "processInstanceIdIn": LISTS,
    "activityIdIn": LISTS,
    "tenantIdIn": LISTS,
    "suspended": FLAGS,
    "priorityHigherThanOrEquals": st.none() | st.integers(-(2**64), 2**64),
    "processVariables": CONDITIONS,
    "variableNamesIgnoreCase": FLAGS,
    "variableValuesIgnoreCase": FLAGS,
    "sorting": SORTING,
    "sortBy": st.sampled_from(["id", "tenantId", "createTime", "x"]),
    "sortOrder": st.sampled_from(["asc", "desc", "x"]),
}
RETRIES: Final[dict[str, Strategy]] = {
    "retries": SMALL,
    "externalTaskIds": LISTS,
    "processInstanceIds": LISTS,
    "externalTaskQuery": st.none() | st.fixed_dictionaries({}, optional=QUERY),
    "processInstanceQuery": st.none() | JSON,
}
MODIFICATIONS: Final[dict[str, Strategy]] = {
    "modifications": VARIABLES,
    "deletions": st.none() | st.lists(NAMES, max_size=3),
}
MEMBERS: Final[dict[str, dict[str, Strategy]]] = {
    "fetch_and_lock": {
        "workerId": WORKERS,
        "maxTasks": SMALL,
        "usePriority": FLAGS,
        "asyncResponseTimeout": st.sampled_from([None, -1, 0, 0.5, TIMEOUT_MS_MAX]),
        "sorting": SORTING,
        "topics": st.none() | st.lists(TOPIC, max_size=3),
    },
    "complete": {"workerId": WORKERS, "variables": VARIABLES, "localVariables": VARIABLES},
    "failure": {
        "workerId": WORKERS,
        "errorMessage": st.none() | TEXT,
        "errorDetails": st.none() | TEXT,
        "retries": st.none() | SMALL,
        "retryTimeout": st.none() | SMALL,
        "variables": VARIABLES,
    },
    "bpmn_error": {
        "workerId": WORKERS,
        "errorCode": TEXT,
        "errorMessage": st.none() | TEXT,
        "variables": VARIABLES,
    },
    "extend_lock": {"workerId": WORKERS, "newDuration": DURATIONS},
    "lock": {"workerId": WORKERS, "lockDuration": DURATIONS},
    "unlock": {},
    "retries": {"retries": SMALL},
    "priority": {"priority": st.integers(-3, 3)},
    "bulk_retries": RETRIES,
    "bulk_retries_async": RETRIES,
    "search_by_body": QUERY,
    "count_by_body": QUERY,
    "set_instance_variables": MODIFICATIONS,
    "set_local_variables": MODIFICATIONS,
}
"""What the body of each verb may have. What is not here takes none."""

WORKER_VERBS: Final = frozenset({"complete", "failure", "bpmn_error", "extend_lock"})
CONTENT_TYPES: Final = st.sampled_from(
    ["application/json", "application/json; charset=utf-8", None, "text/plain", "é"]
)
QUERIES: Final = st.dictionaries(
    st.sampled_from([*QUERY, "firstResult", "maxResults", "deserializeValues", "withLockedTasks"])
    | TEXT,
    TEXT | st.sampled_from(["true", "0", "5", "-1", "a_eq_1", "a_like_%5C", "asc", "id", "w1", ","])
    | ID,
    max_size=2,
)  # fmt: skip


def _bodies(verb: str) -> Strategy:
    """Mostly right ones, some of which have something wrong, and others that are nothing."""
    members = MEMBERS.get(verb)
    if members is None:
        return st.none() | JSON
    right = st.fixed_dictionaries({}, optional=members)
    whole = st.fixed_dictionaries(members)
    with_wrong = st.builds(
        lambda body, wrong: {**body, **wrong},
        whole,
        st.dictionaries(st.sampled_from([*members, "x"]), JSON, max_size=1),
    )
    return _rarely(whole, st.one_of(right, with_wrong, JSON, st.none()), in_tens=4)


@st.composite
def _requests(draw: st.DrawFn, method: str, path: str, verb: str) -> dict[str, Any]:
    """A request of a route."""
    body = draw(_bodies(verb))
    content = None if body is None else msgspec.json.encode(body)
    worker_id = body.get("workerId") if isinstance(body, dict) else None
    if draw(st.integers(0, 19)) == 0:
        content = draw(st.binary(max_size=20))
    headers = {"Authorization": "Basic eDp5"} if draw(st.booleans()) else {}
    if content_type := draw(_rarely(st.just("application/json"), CONTENT_TYPES)):
        headers["Content-Type"] = content_type
    return {
        "method": draw(_rarely(st.just(method), st.sampled_from(["GET", "POST", "PUT", "DELETE"]))),
        "path": draw(_rarely(st.just(""), st.sampled_from(["/engine/default", "/engine/x"])))
        + path,
        "id": draw(ID),
        "name": draw(NAMES),
        "params": draw(st.just({}) | QUERIES),
        "headers": headers,
        "content": content,
        # So that whoever says something of the task may say it.
        "lock": worker_id if verb in WORKER_VERBS and draw(st.booleans()) else None,
    }


def _play(client: httpx2.Client, ids: list[str], request: dict[str, Any]) -> httpx2.Response:
    """Ask it with the tasks' own ids where one is meant."""
    content = request["content"]
    for index in reversed(range(TASKS)):
        if content is not None:
            content = content.replace(f'"task:{index}"'.encode(), f'"{ids[index]}"'.encode())
    task_id = request["id"]
    if task_id.startswith("task:"):
        task_id = ids[int(task_id.removeprefix("task:"))]
        if worker_id := request["lock"]:
            body = {"workerId": worker_id, "lockDuration": 60_000}
            client.post(f"{ROOT}/external-task/{task_id}/lock", json=body)
    path = request["path"].format(id=quote(task_id, safe=""), name=quote(request["name"], safe=""))
    return client.request(
        request["method"],
        f"{ROOT}{path}",
        params=request["params"],
        headers={name: value.encode() for name, value in request["headers"].items()},
        content=content,
    )


def _assert_form(answer: httpx2.Response, verb: str) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 300:
        assert_refused(answer, answer.status_code)
    elif answer.status_code == 204:
        assert_done(answer)
    elif not verb.endswith(("_data", "_details")):
        assert answer.headers["Content-Type"] == "application/json"
        told = msgspec.json.decode(answer.content)
        if verb == "fetch_and_lock" and answer.request.method == "POST":
            assert all(task.keys() == LOCKED_KEYS for task in told)
        elif verb in ("search", "search_by_body"):
            assert all(task.keys() == LISTED_KEYS for task in told)


@pytest.mark.timeout(300)
def test_no_request_breaks_the_contract(database_url: str) -> None:
    with (
        BrokerProcess(database_url, request_timeout_ms_max=TIMEOUT_MS_MAX) as broker,
        httpx2.Client(base_url=broker.base_url, timeout=20) as client,
    ):
        tasks = [
            {"topic": "tu"[number % 2], "variables": {"a": number, "b": "x"}, "tenantId": None}
            | ({"processInstanceId": f"i{number % 3}"} if number % 3 else {})
            for number in range(TASKS)
        ]
        made = client.post(f"{NATIVE}/batch", json={"tasks": tasks}).json()["results"]
        ids = [each["id"] for each in made]

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def ask(verb: str, requests: Strategy, data: st.DataObject) -> None:
            _assert_form(_play(client, ids, data.draw(requests)), verb)

        for method, path, verb in ROUTES:
            ask(verb, _requests(method, path, verb))
        listed = client.get(NATIVE, params={"limit": 100}).json()
        assert {task["id"] for task in listed["tasks"]} == set(ids)
        for task_id in ids:
            assert client.get(f"{NATIVE}/{task_id}").status_code == 200
        assert "request failed" not in broker.log
        assert "a claim failed" not in broker.log
