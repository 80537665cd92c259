"""Where a rule does not hold, and why. An entry that nothing needs any more fails a test: the list only shrinks.

Keys are rule names; places are `file:Class.function`, relative to src/trunkline. Before adding one, ask whether the
place is a supervisor (of a task, a thread, a surface, a stranger's code, a shutdown); if not, ask the design.
"""

EXCEPTIONS: dict[str, dict[str, str]] = {
    "imports_at_the_top": {
        "plugins.py:_load": "the one module that loads optional parts, late and by name",
        "backends/callable/loading.py:_load_module": "imports the module that an agent's author named, not one of ours",
        "backends/callable/hermes.py:session_of": "a module of the package whose agent has been imported already",
    },
    "narrow_excepts": {
        "backends/callable/doorbell.py:Doorbell.ring": "a thread stopped from outside must not silence the others; raised on",
        "backends/callable/loading.py:_run": "plugin load: an author's module may raise anything, SystemExit included",
        "backends/callable/run.py:Run.drive": "task supervisor: a stranger's code must not end the server",
        "backends/callable/run.py:Run._in_thread.work": "thread supervisor: whatever it raises goes to the task",
        "backends/callable/run.py:_text": "a stranger's __str__ may raise while its error is being reported",
        "backends/callable/voice.py:_call": "a stranger's interrupt() may raise while its turn is stopped",
        "backends/embedded/engine.py:Generation._run": "thread supervisor: the reader of the answer raises it again",
        "cli/serve.py:_shut_down": "shutdown: the process ends either way, and the reason goes to the log",
        "engine/attempt.py:Attempt.begin": "boundary to a backend: a bug becomes InternalError; a cancel is raised on",
        "engine/attempt.py:Attempt._guarded_relay": "boundary to a backend, after the head has been sent",
        "engine/attempt.py:Attempt.event_batches": "boundary to a backend, after the head has been sent",
        "engine/attempt.py:Attempt.aclose": "shutdown of a backend's work: the slot is released whatever it raises",
        "engine/runs.py:Runs.start": "supervisor of what is taken up: one run must not keep the server from starting",
        "engine/runs.py:Runs._answer": "task supervisor: a run must end, durably, whatever happened to it",
        "stores/sqlite/worker.py:Worker._commit": "thread supervisor: what it raises rolls back, and goes to who asked",
        "stores/sqlite/worker.py:Worker._read": "thread supervisor: whatever it raises goes to who asked",
        "server/answering.py:Answerer._stream": "surface boundary: a failed stream still ends with an error frame",
        "server/surfaces/responses_socket.py:Turn.run": "surface boundary: a turn that fails must not end its connection",
        "server/middleware/edge.py:Edge.__call__": "surface boundary: every response is an envelope, never a traceback",
    },
    "sizes": {
        "dialects/openai_responses/emitter.py:ResponseEmitter": (
            "one method for each event of the stream over one numbering; halves would hand it to and fro"
        ),
        "dialects/openai_responses/backend.py:ResponsesDecoder": (
            "one method for each of the upstream's event types over one set of open items"
        ),
    },
    "environment_reads": {
        "backends/embedded/__init__.py": "sets what the engine's threads read once, when the library is loaded",
        "config/environment.py": "the one table of variables; everything above it takes a mapping",
    },
    "chance_and_time": {
        "backends/embedded/engine.py": "a key for the engine's own port, and the seconds a load took, for the log",
        "ports/runtime.py": "the system's clock and randomness behind the ports",
        "server/surfaces/health.py": "formats a time it is given as a timestamp; reads no clock",
        "telemetry/logs.py": "formats a time it is given as a timestamp; reads no clock",
        "cli/reload.py": "the reloading parent sleeps between two looks at the files; it serves nothing itself",
    },
}
