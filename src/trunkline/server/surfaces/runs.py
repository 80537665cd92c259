"""/v1/runs: background work as a run. Created, listed, followed, stopped, and asked what it may do.

A run is its response (`dialects/runs`): one row, one log, one executor, two names. A response that was created in the background is
a run, too. A question is answered here for every surface: `{id}` may also be that of a response or a chat completion that is being
streamed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.config.profiles import Profile
from trunkline.dialects.openai_responses import ResponsesSurface
from trunkline.dialects.runs import (
    RunEvents,
    RunObjects,
    RunReport,
    end_of,
    name_of,
    read_choice,
    read_create,
    response_id_of,
    run_id_of,
)
from trunkline.dialects.runs.create import read_request
from trunkline.dialects.runs.events import CLOSED
from trunkline.dialects.runs.objects import Question
from trunkline.model.errors import Conflict, InvalidParameter, NotFound
from trunkline.ports.stores import Page, RunStatus, StoredRun
from trunkline.server.answering import outcome_headers
from trunkline.server.background import Asked, Background
from trunkline.server.body import read_body
from trunkline.server.creation import Creation
from trunkline.server.exchange import exchange_of, header
from trunkline.server.json_response import send_json
from trunkline.server.keyed import key_of
from trunkline.server.listing import Entry, listing, one_more
from trunkline.server.log_stream import last_event_id, stream_log
from trunkline.server.methods import resource
from trunkline.server.query import integer_of, page_of, query_of
from trunkline.server.runtime import ResponseState, Runtime
from trunkline.server.session import checked_id, session_of

LIVE: tuple[RunStatus, ...] = ("queued", "in_progress")
STORED: tuple[RunStatus, ...] = (*LIVE, "completed", "failed", "cancelled", "incomplete")
WAITING, STOPPING = "requires_action", "stopping"


class RunViews:
    """Runs as this server's clients see them."""

    def __init__(self, runtime: Runtime, state: ResponseState) -> None:
        profile = runtime.profile
        self._runtime = runtime
        self._state = state
        self.events = RunEvents(json_spacing=profile.json_spacing)
        self.objects = RunObjects(
            name=profile.run_object,
            statuses=profile.run_statuses,
            accepted=profile.run_accepted,
            json_spacing=profile.json_spacing,
        )
        self._meant = _meant(profile)

    async def load(self, tenant: str, given: str) -> StoredRun:
        """Raises NotFound."""
        run = await self._state.store.load_run(tenant, response_id_of(given))
        if run is None:
            self._state.runs.forget(tenant, response_id_of(given))  # what is at hand of its log has had its time, too
            raise _not_found(given)
        return run

    def report(self, run: StoredRun) -> RunReport:
        """What is known of it now: while it lives, the store knows less than this process."""
        tenant, status, last = run.tenant, str(run.status), None
        questions: Sequence[Question] = ()
        if run.status in LIVE:
            asked = self._runtime.approvals.pending(tenant, run.id)
            questions = [Question(one.call_id, one.tool, one.text, one.choices) for one in asked]
            status = WAITING if questions else status
            alive = self._state.runs.find(tenant, run.id)
            if alive is not None:
                status = STOPPING if alive.stopping else status
                names = (name_of(event) for event in alive.log.newest)
                last = next((name for name in names if name is not None), None)
        else:
            last = end_of(run.status)
        return RunReport(
            response_id=run.id,
            status=status,
            model=run.model,
            session_id=run.session_id,
            created_at=run.created_at,
            updated_at=int(run.updated_at),
            last_event=last,
            questions=questions,
        )

    async def list(self, tenant: str, page: Page, *, status: str | None, session_id: str | None) -> Sequence[StoredRun]:
        """Raises InvalidParameter for a status that is none."""
        statuses: Sequence[RunStatus] | None = None
        ids: Sequence[str] | None = None
        if status is not None:
            meant = self._meant.get(status)
            if meant is None:
                raise InvalidParameter(
                    f"Invalid value: '{status[:100]}'. Supported values are: {', '.join(map(repr, self._meant))}.",
                    param="status",
                )
            statuses = [one for one in STORED if one in meant]
            alive = self._state.runs.alive(tenant)
            if meant == {WAITING}:
                statuses, ids = None, [one.id for one in alive if self._runtime.approvals.pending(tenant, one.id)]
            elif meant == {STOPPING}:
                statuses, ids = None, [one.id for one in alive if one.stopping]
        return await self._state.store.list_runs(tenant, page, statuses=statuses, session_id=session_id, ids=ids)


class CreateRun:
    """POST /v1/runs."""

    def __init__(self, runtime: Runtime, codec: ResponsesSurface, state: ResponseState, views: RunViews) -> None:
        self._runtime = runtime
        self._codec = codec
        self._background = Background(runtime, Creation(runtime, codec, state), state)
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime, exchange = self._runtime, exchange_of(scope)
        body = await read_body(scope, receive, limit_bytes=runtime.settings.max_body_bytes)
        create = read_create(body)
        session, request = session_of(scope, read_request(create, self._codec), runtime)
        asked = Asked(request=request, body=create.body, session=session, key=key_of(scope, runtime, body))
        taken = await self._background.take_on(asked, exchange, receive)
        if taken is None:
            return
        call, headers = taken.call, outcome_headers(exchange.outcome)
        if call is None:  # taken on before, under the same key
            run = await self._views.load(exchange.tenant, taken.id)
            await send_json(self._views.objects.brief(self._views.report(run)), send, status=202, headers=headers)
            return
        report = RunReport(
            response_id=call.turn_id,
            status="queued",
            model=call.request.model or "",
            session_id=call.session_id,
            created_at=call.created_at,
            updated_at=call.created_at,
            last_event=None,
        )
        await send_json(self._views.objects.accepted(report), send, status=202, headers=headers)


class ListRuns:
    """GET /v1/runs: `status` and `session_id` choose among them."""

    def __init__(self, views: RunViews) -> None:
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query, page = query_of(scope), page_of(scope)
        if page.after is not None:
            page = Page(limit=page.limit, order=page.order, after=response_id_of(page.after))
        session_id = query.get("session_id")
        if session_id is not None:
            session_id = checked_id(session_id, param="session_id")
        found = await self._views.list(
            exchange_of(scope).tenant, one_more(page), status=query.get("status"), session_id=session_id
        )
        entries = [Entry(run_id_of(run.id), self._views.objects.brief(self._views.report(run))) for run in found]
        await send_json(listing(entries, limit=page.limit), send)


class RetrieveRun:
    """GET /v1/runs/{id}."""

    def __init__(self, state: ResponseState, views: RunViews) -> None:
        self._store = state.store
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, given = exchange_of(scope).tenant, scope["path_params"]["id"]
        run = await self._views.load(tenant, given)
        response = await self._store.load_response(tenant, run.id)
        if response is None:  # deleted meanwhile
            raise _not_found(given)
        await send_json(self._views.objects.whole(self._views.report(run), response.object), send)


class FollowRun:
    """GET /v1/runs/{id}/events. `after` stands in the address that a browser's EventSource asks again by itself, `Last-Event-ID`
    is what it has seen since: the later of the two counts. It asks again at the run's end, too; only a 204 makes it stop."""

    def __init__(self, runtime: Runtime, state: ResponseState, views: RunViews) -> None:
        self._runtime = runtime
        self._store = state.store
        self._runs = state.runs
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, query = exchange_of(scope), query_of(scope)
        given = header(scope, b"last-event-id")
        after = integer_of(query, "after", -1, low=-1)
        if given:
            after = max(after, last_event_id(given))
        run = await self._views.load(exchange.tenant, scope["path_params"]["id"])
        if given and run.status not in LIVE and after + 1 >= run.next_sequence:
            await Response(status_code=204)(scope, receive, send)
            return
        frames = self._runs.frames(exchange.tenant, run.id, after=after, frame=self._views.events.frame)
        if after + 1 >= run.next_sequence:
            frames = self._closed(frames, run)
        await stream_log(frames, self._runtime, exchange, receive, send)

    async def _closed(self, frames: AsyncIterator[bytes], run: StoredRun) -> AsyncIterator[bytes]:
        """The same for a reader who has read all there is: if nothing follows but the end, that is said to it all the same."""
        silent = True
        async for data in frames:
            silent = False
            yield data
        if silent:
            now = await self._store.load_run(run.tenant, run.id)
            if now is None or now.status not in LIVE:
                yield CLOSED


class StopRun:
    """POST /v1/runs/{id}/stop: its end follows; a run that has ended stays as it is."""

    def __init__(self, state: ResponseState, views: RunViews) -> None:
        self._runs = state.runs
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        run = await self._views.load(exchange_of(scope).tenant, scope["path_params"]["id"])
        alive = self._runs.find(run.tenant, run.id)
        if alive is not None:
            alive.stop()
        await send_json(self._views.objects.brief(self._views.report(run)), send)


class Approve:
    """POST /v1/runs/{id}/approval: answers the oldest open question, the one of `call_id`, or `all`."""

    def __init__(self, runtime: Runtime, state: ResponseState, views: RunViews) -> None:
        self._runtime = runtime
        self._store = state.store
        self._views = views

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, given = exchange_of(scope).tenant, scope["path_params"]["id"]
        choice = read_choice(await read_body(scope, receive, limit_bytes=self._runtime.settings.max_body_bytes))
        turn_id = response_id_of(given)
        offered = {one for question in self._runtime.approvals.pending(tenant, turn_id) for one in question.choices}
        chosen = choice.choice if choice.choice in offered else self._choice(choice.choice)
        try:
            answered = self._runtime.approvals.resolve(tenant, turn_id, chosen, call_id=choice.call_id, all=choice.all)
        except Conflict as error:
            if error.code == "approval_not_active" and await self._store.load_response(tenant, turn_id) is None:
                raise _not_found(given) from None
            raise
        settled = [question.call_id for question in answered]
        await send_json(self._views.objects.resolved(turn_id, chosen, settled), send)

    def _choice(self, word: str) -> str:
        """The choice that the profile has another word for."""
        words = self._runtime.profile.approval_choices
        word = word.strip().lower() if words else word
        return words.get(word, word)


def _meant(profile: Profile) -> Mapping[str, set[str]]:
    """The statuses that each word of the profile stands for."""
    meant: dict[str, set[str]] = {}
    for status in (*STORED, WAITING, STOPPING):
        meant.setdefault(profile.run_statuses.get(status, status), set()).add(status)
    return meant


def _not_found(given: str) -> NotFound:
    return NotFound(f"Run with id '{given[:200]}' not found.", code="run_not_found")


def routes(runtime: Runtime, codec: ResponsesSurface, state: ResponseState) -> list[BaseRoute]:
    views = RunViews(runtime, state)
    return [
        resource("/v1/runs", {"POST": CreateRun(runtime, codec, state, views), "GET": ListRuns(views)}),
        Route("/v1/runs/{id}", RetrieveRun(state, views), methods=["GET"]),
        Route("/v1/runs/{id}/events", FollowRun(runtime, state, views), methods=["GET"]),
        Route("/v1/runs/{id}/stop", StopRun(state, views), methods=["POST"]),
        Route("/v1/runs/{id}/approval", Approve(runtime, state, views), methods=["POST"]),
    ]
