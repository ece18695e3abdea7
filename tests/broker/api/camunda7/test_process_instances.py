"""Process instances, as their tasks tell of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.api.camunda7.answers import NativeTask
from broker.api.camunda7.process_instances import activity_instances, historic_process_instance
from broker.errors import TaskNotFound

ROOT = {
    "id": "i",
    "parentActivityInstanceId": None,
    "activityId": "p:1:x",
    "activityName": None,
    "name": None,
    "activityType": "processDefinition",
    "processInstanceId": "i",
    "processDefinitionId": "p:1:x",
    "childTransitionInstances": [],
    "executionIds": ["i"],
    "incidentIds": [],
    "incidents": [],
}
CHILD = {
    **ROOT,
    "id": "a",
    "parentActivityInstanceId": "i",
    "activityId": "act",
    "activityType": "serviceTask",
    "childActivityInstances": [],
    "executionIds": ["a"],
}
PAST = {
    "id": "i",
    "businessKey": "order",
    "processDefinitionId": "p:1:x",
    "processDefinitionKey": None,
    "processDefinitionName": None,
    "processDefinitionVersion": None,
    "startTime": "2026-01-31T10:00:00.000+0000",
    "endTime": None,
    "removalTime": None,
    "durationInMillis": None,
    "startUserId": None,
    "startActivityId": None,
    "deleteReason": None,
    "rootProcessInstanceId": None,
    "superProcessInstanceId": None,
    "superCaseInstanceId": None,
    "caseInstanceId": None,
    "tenantId": None,
    "state": "ACTIVE",
}


def _task(task_id: str, state: str, second: float = 0, **members: Any) -> NativeTask:
    finished_at = None
    if state in ("COMPLETED", "BPMN_ERROR", "CANCELLED"):
        finished_at = f"2026-01-31T10:01:{second:04.1f}+00:00"
    told: dict[str, Any] = {
        "process_instance_id": "i",
        "business_key": "order",
        "process_definition_id": "p:1:x",
        "activity_id": "act",
        **members,
    }
    return NativeTask(
        id=task_id,
        topic="t",
        state=state,
        priority=0,
        created_at=f"2026-01-31T10:00:{int(second):02}+00:00",
        retries=3,
        finished_at=finished_at,
        **told,
    )


def _tree(*tasks: NativeTask) -> Any:
    return msgspec.json.decode(activity_instances("i", tasks))


def _past(*tasks: NativeTask) -> Any:
    return msgspec.json.decode(historic_process_instance("i", tasks))


def test_each_open_task_is_an_activity() -> None:
    tree = _tree(_task("x", "COMPLETED"), _task("a", "LOCKED"), _task("b", "FAILED"))
    failed = {
        **CHILD,
        "id": "b",
        "executionIds": ["b"],
        "incidentIds": ["b"],
        "incidents": [{"id": "b", "activityId": "act"}],
    }
    assert tree == {**ROOT, "childActivityInstances": [CHILD, failed]}


def test_nothing_goes_on_where_no_task_is_open() -> None:
    for tasks in ([], [_task("a", "COMPLETED")]):
        with pytest.raises(TaskNotFound, match="Process instance with id i does not exist"):
            activity_instances("i", tasks)


def test_it_is_active_while_a_task_is_open_from_the_first_one_on() -> None:
    later, first = _task("b", "CREATED", 5, business_key="other"), _task("a", "COMPLETED", 0)
    assert _past(later, first) == PAST


def test_it_ends_with_its_last_task() -> None:
    assert _past(_task("b", "BPMN_ERROR", 7.5), _task("a", "COMPLETED")) == {
        **PAST,
        "endTime": "2026-01-31T10:01:07.500+0000",
        "durationInMillis": 67_500,
        "state": "COMPLETED",
    }


def test_it_was_ended_where_its_last_task_was_cancelled() -> None:
    past = _past(_task("a", "COMPLETED"), _task("b", "CANCELLED", 9, error_message="not needed"))
    assert (past["state"], past["deleteReason"]) == ("EXTERNALLY_TERMINATED", "not needed")
    past = _past(_task("a", "CANCELLED", error_message="x"), _task("b", "COMPLETED", 9))
    assert (past["state"], past["deleteReason"]) == ("COMPLETED", None)


def test_a_task_that_is_its_own_instance_was_started_by_nobody() -> None:
    assert _past(_task("i", "LOCKED", process_instance_id=None))["rootProcessInstanceId"] == "i"


def test_what_has_no_tasks_is_unknown() -> None:
    with pytest.raises(TaskNotFound, match="Process instance with id i does not exist"):
        historic_process_instance("i", [])
