"""Conversations over HTTP: their life, their items page by page, who may see them, and responses that are made in them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.fakes.upstream import COMPLETION, FakeUpstream, json_answer
from tests.serving import Reply, Serving, user

TENANTS = """
[[server.keys]]
key = "sk-ada"
name = "ada"
[[server.keys]]
key = "sk-bob"
name = "bob"
[backends.talk]
type = "scripted"
"""
PATH = "/v1/conversations"


async def post(server: Serving, path: str, body: object, **headers: str) -> Reply:
    return await server.request("POST", path, json.dumps(body).encode(), headers=headers or None)


async def begun(server: Serving, *items: object, **body: object) -> str:
    reply = await post(server, PATH, {"items": list(items), **body})
    assert reply.status == 200, reply.body
    return str(reply.json()["id"])


async def texts(server: Serving, conversation: str, query: str = "?order=asc") -> list[str]:
    listed = (await server.get(f"{PATH}/{conversation}/items{query}")).json()
    return [item["content"][0]["text"] for item in listed["data"]]


def numbered(count: int) -> list[dict[str, object]]:
    return [{"id": f"msg_{number}", "role": "user", "content": f"{number}"} for number in range(count)]


async def test_a_conversation_is_made_described_and_deleted(echo: Serving) -> None:
    made = await post(echo, PATH, {"metadata": {"topic": "tea"}})
    conversation = made.json()
    assert made.status == 200
    assert conversation.keys() == {"id", "object", "created_at", "metadata"}
    assert conversation["id"].startswith("conv_")
    assert (conversation["object"], conversation["metadata"]) == ("conversation", {"topic": "tea"})
    path = f"{PATH}/{conversation['id']}"
    assert (await echo.get(path)).json() == conversation
    changed = (await post(echo, path, {"metadata": {"topic": "coffee"}})).json()
    assert changed == {**conversation, "metadata": {"topic": "coffee"}}
    assert (await echo.get(path)).json() == changed
    assert (await post(echo, path, {"metadata": None})).json()["metadata"] == {}
    gone = await echo.request("DELETE", path)
    assert gone.json() == {"id": conversation["id"], "object": "conversation.deleted", "deleted": True}
    for method, body in (("GET", None), ("DELETE", None), ("POST", b'{"metadata": {}}')):
        reply = await echo.request(method, path, body)
        assert (reply.status, reply.error["code"]) == (404, "conversation_not_found")
        assert conversation["id"] in reply.error["message"]


async def test_a_body_that_is_empty_makes_an_empty_conversation(echo: Serving) -> None:
    reply = await echo.request("POST", PATH)
    assert (reply.status, reply.json()["metadata"]) == (200, {})
    assert (await echo.get(f"{PATH}/{reply.json()['id']}/items")).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_items_of_every_kind_are_kept_in_their_full_form(echo: Serving) -> None:
    conversation = await begun(echo, {"role": "user", "content": "Hi"})
    added = await post(
        echo,
        f"{PATH}/{conversation}/items",
        {
            "items": [
                {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_1", "output": "42"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "42 it is."}]},
                {"type": "local_shell_call_output", "id": "lsh_1", "output": "{}"},
            ]
        },
    )
    assert added.status == 200, added.body
    listing = added.json()
    call, output, message, shell = listing["data"]
    assert call == {
        "id": call["id"], "type": "function_call", "status": "completed", "call_id": "call_1", "name": "f", "arguments": "{}",
    }  # fmt: skip
    assert (output["status"], output["output"]) == ("completed", "42")
    assert message["content"] == [{"type": "output_text", "text": "42 it is.", "annotations": []}]
    assert shell == {"type": "local_shell_call_output", "id": "lsh_1", "output": "{}"}
    assert (listing["first_id"], listing["last_id"], listing["has_more"]) == (call["id"], "lsh_1", False)
    stored = (await echo.get(f"{PATH}/{conversation}/items?order=asc")).json()["data"]
    assert stored[1:] == listing["data"]
    assert (stored[0]["role"], stored[0]["content"]) == ("user", [{"type": "input_text", "text": "Hi"}])
    assert len({item["id"] for item in stored}) == 5
    for item in stored:
        assert (await echo.get(f"{PATH}/{conversation}/items/{item['id']}")).json() == item


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_join_to_the_whole_list(echo: Serving, order: str) -> None:
    conversation = await begun(echo, *numbered(7))
    seen: list[str] = []
    after = ""
    while True:
        query = f"?limit=3&order={order}&include[]=message.output_text.logprobs{after}"
        page = (await echo.get(f"{PATH}/{conversation}/items{query}")).json()
        seen += [item["id"] for item in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    expected = [f"msg_{number}" for number in range(7)]
    assert seen == (expected if order == "asc" else expected[::-1])


async def test_the_newest_come_first_when_nothing_is_said(echo: Serving) -> None:
    conversation = await begun(echo, *numbered(20))
    await post(echo, f"{PATH}/{conversation}/items", {"items": [{"role": "user", "content": "newest"}]})
    listed = await texts(echo, conversation, "")
    assert (len(listed), listed[0], listed[-1]) == (20, "newest", "1")


async def test_an_item_that_is_there_stays_as_it_is(echo: Serving) -> None:
    conversation = await begun(echo, *numbered(2))
    path = f"{PATH}/{conversation}/items"
    again = {"id": "msg_1", "role": "user", "content": "other"}
    reply = await post(echo, path, {"items": [again, {"id": "msg_9", "role": "user", "content": "9"}, again]})
    assert [item["content"][0]["text"] for item in reply.json()["data"]] == ["1", "9"]
    assert await texts(echo, conversation) == ["0", "1", "9"]


async def test_a_deleted_item_is_gone_and_the_conversation_comes_back(echo: Serving) -> None:
    conversation = await begun(echo, *numbered(3), metadata={"a": "b"})
    path = f"{PATH}/{conversation}/items"
    reply = await echo.request("DELETE", f"{path}/msg_1")
    assert (reply.status, reply.json()["id"], reply.json()["metadata"]) == (200, conversation, {"a": "b"})
    assert await texts(echo, conversation) == ["0", "2"]
    for method in ("GET", "DELETE"):
        gone = await echo.request(method, f"{path}/msg_1")
        assert (gone.status, gone.error["code"]) == (404, "item_not_found")
    assert (await echo.get(f"{path}?after=msg_1")).error["param"] == "after"


async def test_items_of_an_unknown_conversation_are_404(echo: Serving) -> None:
    items = b'{"items": [{"role": "user", "content": "x"}]}'
    for method, path, body in (
        ("GET", "conv_no/items", None),
        ("POST", "conv_no/items", items),
        ("GET", "conv_no/items/msg_1", None),
        ("DELETE", "conv_no/items/msg_1", None),
    ):
        reply = await echo.request(method, f"{PATH}/{path}", body)
        assert (reply.status, reply.error["code"]) == (404, "conversation_not_found"), path


BAD: list[tuple[object, str | None, str]] = [
    ({"items": "x"}, "items", "invalid_type"),
    ({"items": numbered(21)}, "items", "array_above_max_length"),
    ({"items": [5]}, "items[0]", "invalid_type"),
    ({"items": [{"role": "user", "content": "x"}, {"role": "user"}]}, "items[1].content", "missing_required_parameter"),
    ({"items": [{"type": "reasoning", "summary": [{}]}]}, "items[0].summary[0].type", "missing_required_parameter"),
    ({"items": [{"role": "robot", "content": "x"}]}, "items[0].role", "invalid_value"),
    ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].type", "invalid_value"),
    ({"items": [{"id": 5, "role": "user", "content": "x"}]}, "items[0].id", "invalid_type"),
    ({"metadata": []}, "metadata", "invalid_type"),
    ({"metadata": {"a": 5}}, "metadata.a", "invalid_type"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "object_above_max_properties"),
    ({"metadata": {"n" * 65: "x"}}, "metadata", "property_name_above_max_length"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
    ([], None, "invalid_type"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD)
async def test_bad_input_is_named_by_its_path(echo: Serving, body: object, param: str | None, code: str) -> None:
    reply = await post(echo, PATH, body)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert reply.error["type"] == "invalid_request_error"


async def test_what_must_be_said_is_asked_for(echo: Serving) -> None:
    conversation = await begun(echo)
    for path, body, param, code in (
        (conversation, {}, "metadata", "missing_required_parameter"),
        (f"{conversation}/items", {}, "items", "missing_required_parameter"),
        (f"{conversation}/items", {"items": []}, "items", "empty_array"),
        (f"{conversation}/items", {"items": numbered(21)}, "items", "array_above_max_length"),
    ):
        reply = await post(echo, f"{PATH}/{path}", body)
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"), ("after=no", "after")):
        reply = await echo.get(f"{PATH}/{conversation}/items?{query}")
        assert (reply.status, reply.error["param"]) == (400, param)


async def test_a_method_that_a_path_has_not_is_405_with_those_it_has(echo: Serving) -> None:
    for path, allowed in (
        (PATH, {"POST"}),
        (f"{PATH}/x", {"GET", "HEAD", "POST", "DELETE"}),
        (f"{PATH}/x/items", {"GET", "HEAD", "POST"}),
        ("/v1/chat/completions", {"GET", "HEAD", "POST"}),
    ):
        reply = await echo.request("PUT", path, b"{}")
        assert (reply.status, set(reply.headers["allow"].split(", "))) == (405, allowed)


async def test_a_foreign_conversation_is_an_unknown_one(serve: Serve) -> None:
    async with serve(TENANTS) as server:
        ada, bob = {"authorization": "Bearer sk-ada"}, {"authorization": "Bearer sk-bob"}
        made = await post(server, PATH, {"items": numbered(1)}, **ada)
        path = f"{PATH}/{made.json()['id']}"
        items = b'{"items": [{"role": "user", "content": "mine"}]}'
        for method, where, body in (
            ("GET", path, None),
            ("POST", path, b'{"metadata": {}}'),
            ("DELETE", path, None),
            ("GET", f"{path}/items", None),
            ("POST", f"{path}/items", items),
            ("GET", f"{path}/items/msg_0", None),
            ("DELETE", f"{path}/items/msg_0", None),
        ):
            reply = await server.request(method, where, body, headers=bob)
            assert (reply.status, reply.error["code"]) == (404, "conversation_not_found"), (method, where)
        response = {"model": "scripted", "input": "Hi", "conversation": made.json()["id"]}
        assert (await post(server, "/v1/responses", response, **bob)).error["code"] == "conversation_not_found"
        assert len((await server.get(f"{path}/items", headers=ada)).json()["data"]) == 1


@pytest.fixture
async def over_http(serve: Serve, upstream: FakeUpstream) -> AsyncIterator[Serving]:
    async with serve(f'[backends.up]\ntype = "http"\nendpoints = ["{upstream.url}"]\n') as server:
        yield server


def said(text: str) -> Any:
    answer = json.loads(json.dumps(COMPLETION))
    answer["choices"][0]["message"]["content"] = text
    return json_answer(answer)


@pytest.mark.parametrize("named", ["id", "object"])
async def test_a_response_reads_the_conversation_and_extends_it(
    over_http: Serving, upstream: FakeUpstream, named: str
) -> None:
    conversation = await begun(over_http, {"role": "developer", "content": "Be brief."})
    how: object = conversation if named == "id" else {"id": conversation}
    for question, text in (("One?", "1"), ("Two?", "2")):
        upstream.plan([said(text)])
        body = {"model": "up-model", "input": question, "conversation": how}
        reply = await post(over_http, "/v1/responses", body)
        assert reply.status == 200, reply.body
        assert reply.json()["conversation"] == {"id": conversation}
    assert await texts(over_http, conversation) == ["Be brief.", "One?", "1", "Two?", "2"]
    assert [(one["role"], one["content"]) for one in upstream.posts[1].json()["messages"]] == [
        ("developer", "Be brief."),
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Two?"),
    ]


async def test_a_call_added_with_its_output_reaches_the_model(over_http: Serving, upstream: FakeUpstream) -> None:
    conversation = await begun(
        over_http, *user("What time?"), {"type": "function_call", "call_id": "c", "name": "clock", "arguments": "{}"}
    )
    body = {"model": "up-model", "input": "Well?", "conversation": conversation}
    refused = await post(over_http, "/v1/responses", body)
    assert (refused.status, refused.error["param"]) == (400, "input")
    assert "No tool output found for function call c" in refused.error["message"]
    output = {"type": "function_call_output", "call_id": "c", "output": "noon"}
    await post(over_http, f"{PATH}/{conversation}/items", {"items": [output]})
    upstream.plan([said("Noon.")])
    assert (await post(over_http, "/v1/responses", body)).status == 200
    roles = [message["role"] for message in upstream.posts[0].json()["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]


async def test_a_streamed_response_extends_it_too_and_one_that_is_not_stored_does_not(echo: Serving) -> None:
    conversation = await begun(echo)
    body: dict[str, object] = {"model": "scripted", "input": "hello there", "conversation": conversation}
    assert (await post(echo, "/v1/responses", {**body, "stream": True})).status == 200
    assert await texts(echo, conversation) == ["hello there", "hello there"]
    assert (await post(echo, "/v1/responses", {**body, "store": False})).status == 200
    assert len(await texts(echo, conversation)) == 2


async def test_responses_outlive_their_conversation(echo: Serving) -> None:
    conversation = await begun(echo)
    body = {"model": "scripted", "input": "hello", "conversation": conversation}
    response = (await post(echo, "/v1/responses", body)).json()
    assert (await echo.request("DELETE", f"{PATH}/{conversation}")).status == 200
    assert (await echo.get(f"/v1/responses/{response['id']}")).json() == response
    unknown = await post(echo, "/v1/responses", body)
    assert (unknown.status, unknown.error["code"]) == (404, "conversation_not_found")
