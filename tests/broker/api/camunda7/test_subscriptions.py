"""Which tasks a topic of a fetch means, and which of their variables come with them."""

from __future__ import annotations

from typing import Any, Final

from tests.broker.api.camunda7.scene import Scene, assert_done, topic, wish


async def test_variables_may_be_asked_for_by_name(scene: Scene) -> None:
    await scene.created(variables={"a": 1, "b": "x"})
    every = {"a", "b"}
    for names, told in (
        (None, every), ([], set()), (["b", "none"], {"b"}), (["none"], set()), (["a", "b"], every)
    ):  # fmt: skip
        for more in ({}, {"deserializeValues": True, "localVariables": True}):
            [task] = await scene.fetched(topics=[topic(variables=names, **more)])
            assert task["variables"].keys() == told
            assert_done(await scene.say(task, "unlock"))


async def test_a_topic_that_is_wished_for_twice_counts_by_its_last_wish(scene: Scene) -> None:
    await scene.created(variables={"a": 1, "b": 2}, businessKey="k")
    twice = [topic(variables=["a"], businessKey="other"), topic(variables=["b"])]
    assert await scene.fetched(topics=twice[::-1]) == []
    [task] = await scene.fetched(topics=twice)
    assert task["variables"].keys() == {"b"}


MEMBERS: Final = {
    "businessKey": "b",
    "processDefinitionId": "d:1",
    "processDefinitionKey": "d",
    "processDefinitionVersionTag": "v1.0",
    "tenantId": "acme",
    "variables": {"a": 1, "s": "x"},
}


NARROWED: Final[list[tuple[dict[str, Any], str]]] = [
    ({"businessKey": "b"}, "full"),
    ({"businessKey": "c"}, ""),
    ({"processDefinitionId": "d:1"}, "full"),
    ({"processDefinitionIdIn": ["d:0", "d:1"]}, "full"),
    ({"processDefinitionId": "d:1", "processDefinitionIdIn": ["d:0"]}, ""),
    ({"processDefinitionKey": "d"}, "full"),
    ({"processDefinitionKeyIn": ["d", "e"]}, "full"),
    ({"processDefinitionKey": "d", "processDefinitionKeyIn": ["e"]}, ""),
    ({"processDefinitionVersionTag": "v1.0"}, "full"),
    ({"processDefinitionVersionTag": "v_.%"}, "full"),
    ({"processDefinitionVersionTag": "v1"}, ""),
    ({"tenantIdIn": ["acme", "none"]}, "full"),
    ({"tenantIdIn": ["none"]}, ""),
    ({"withoutTenantId": True}, "bare"),
    ({"withoutTenantId": 1}, "bare"),
    ({"withoutTenantId": True, "tenantIdIn": ["acme"]}, ""),
    ({"processVariables": {"a": 1}}, "full"),
    ({"processVariables": {"a": 2, "s": "x"}}, "full"),
    ({"processVariables": {"a": "1"}}, ""),
    ({"processVariables": {"none": None}}, ""),
    ({"processVariables": {}}, "bare full"),
    ({"processVariables": None, "tenantIdIn": [], "processDefinitionIdIn": []}, "bare full"),
    ({"withoutTenantId": False, "businessKey": None}, "bare full"),
]


async def test_only_so_much_is_looked_for_in_variables(scene: Scene) -> None:
    await scene.created(**MEMBERS)
    a = {"a": 1}
    many = {f"n{number}": 1 for number in range(99)}
    long = "x" * 8_000
    for variables, others, brings in (
        (a | many, {}, 1),
        (a | many | {"one too many": 1}, {}, None),
        (a | {"n": long}, {"n": long}, 1),
        (a | {"n": long}, {"n": long, "m": "x" * 400}, None),
    ):
        topics = [topic(processVariables=variables)]
        topics += [topic(topicName="other", processVariables=others)]
        answer = await scene.post("/external-task/fetchAndLock", wish(topics=topics))
        if brings is None:
            assert answer.status_code == 400, answer.text
            assert "/topics: processVariables" in answer.json()["message"]
        else:
            [task] = answer.json()
            assert_done(await scene.say(task, "unlock"))


async def test_a_topic_may_be_narrowed(scene: Scene) -> None:
    ids = {await scene.created(): "bare", await scene.created(**MEMBERS): "full"}
    for narrow, brings in NARROWED:
        found = [task["id"] for task in await scene.fetched(topics=[topic(**narrow)])]
        assert " ".join(ids[task_id] for task_id in found) == brings, narrow
        for task_id in found:
            assert_done(await scene.say(task_id, "unlock"))
