"""The tables, as numbered steps: step N brings a file of schema N-1 to schema N.

A step is never edited once it has been released, only followed by another. `PRAGMA user_version` holds the number. The
tenant begins every primary key and every index that a request uses, so that no statement can forget it cheaply.

Small columns stand before the large ones: SQLite reads a row from its front and leaves the pages of the rest alone.
Rows with documents are ordinary tables with an index as their key. Only rows that are small for certain have no other storage
(WITHOUT ROWID): of such a table SQLite reads every row whole that a search passes, so a few large ones slow every search.
"""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # hidden: deleted or given way, while another turn still continues it; then `object` is empty.
        # used: grows with every use, in the order of uses. context: what came before, where the parent is gone.
        """
        CREATE TABLE responses (
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            parent_id TEXT,
            conversation_id TEXT,
            name TEXT,
            status TEXT NOT NULL,
            model TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            background INTEGER NOT NULL,
            hidden INTEGER NOT NULL,
            used INTEGER NOT NULL,
            context BLOB,
            input BLOB NOT NULL,
            output BLOB NOT NULL,
            object BLOB NOT NULL,
            PRIMARY KEY (tenant, id)
        )
        """,
        "CREATE INDEX responses_by_parent ON responses (tenant, parent_id) WHERE parent_id IS NOT NULL",
        "CREATE INDEX responses_by_use ON responses (tenant, hidden, used, created_at)",
        """
        CREATE TABLE names (
            tenant TEXT NOT NULL,
            name TEXT NOT NULL,
            response_id TEXT NOT NULL,
            PRIMARY KEY (tenant, name)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX names_by_response ON names (tenant, response_id)",
        """
        CREATE TABLE runs (
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            status TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            request BLOB NOT NULL,
            PRIMARY KEY (tenant, id)
        )
        """,
        "CREATE INDEX runs_unfinished ON runs (status) WHERE status IN ('queued', 'in_progress')",
        """
        CREATE TABLE events (
            tenant TEXT NOT NULL,
            run_id TEXT NOT NULL,
            sequence_number INTEGER NOT NULL,
            type TEXT NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (tenant, run_id, sequence_number)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE conversations (
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            metadata BLOB NOT NULL,
            PRIMARY KEY (tenant, id)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE items (
            tenant TEXT NOT NULL,
            conversation_id TEXT NOT NULL,
            position INTEGER NOT NULL,
            id TEXT NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (tenant, conversation_id, position)
        )
        """,
        "CREATE UNIQUE INDEX items_by_id ON items (tenant, conversation_id, id)",
        """
        CREATE TABLE completions (
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            position INTEGER NOT NULL,
            model TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            metadata BLOB NOT NULL,
            messages BLOB NOT NULL,
            object BLOB NOT NULL,
            PRIMARY KEY (tenant, id)
        )
        """,
        "CREATE UNIQUE INDEX completions_in_order ON completions (tenant, position, created_at)",
    ),
    (
        # start_s: the unix second at which span_s seconds begin, 60 or 3600 of them. duration_N and first_N: the buckets of two
        # histograms, see ports/usage.py.
        """
        CREATE TABLE usage (
            tenant TEXT NOT NULL,
            span_s INTEGER NOT NULL,
            start_s INTEGER NOT NULL,
            model TEXT NOT NULL,
            backend TEXT NOT NULL,
            endpoint TEXT NOT NULL,
            operation TEXT NOT NULL,
            requests INTEGER NOT NULL,
            streams INTEGER NOT NULL,
            input_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            reasoning_tokens INTEGER NOT NULL,
            duration_s REAL NOT NULL,
            first_content_s REAL NOT NULL,
            error_invalid_request INTEGER NOT NULL,
            error_rate_limited INTEGER NOT NULL,
            error_timeout INTEGER NOT NULL,
            error_unavailable INTEGER NOT NULL,
            error_server_error INTEGER NOT NULL,
            error_cancelled INTEGER NOT NULL,
            duration_0 INTEGER NOT NULL, duration_1 INTEGER NOT NULL, duration_2 INTEGER NOT NULL,
            duration_3 INTEGER NOT NULL, duration_4 INTEGER NOT NULL, duration_5 INTEGER NOT NULL,
            duration_6 INTEGER NOT NULL, duration_7 INTEGER NOT NULL, duration_8 INTEGER NOT NULL,
            duration_9 INTEGER NOT NULL, duration_10 INTEGER NOT NULL, duration_11 INTEGER NOT NULL,
            duration_12 INTEGER NOT NULL, duration_13 INTEGER NOT NULL, duration_14 INTEGER NOT NULL,
            first_0 INTEGER NOT NULL, first_1 INTEGER NOT NULL, first_2 INTEGER NOT NULL,
            first_3 INTEGER NOT NULL, first_4 INTEGER NOT NULL, first_5 INTEGER NOT NULL,
            first_6 INTEGER NOT NULL, first_7 INTEGER NOT NULL, first_8 INTEGER NOT NULL,
            first_9 INTEGER NOT NULL, first_10 INTEGER NOT NULL, first_11 INTEGER NOT NULL,
            first_12 INTEGER NOT NULL, first_13 INTEGER NOT NULL, first_14 INTEGER NOT NULL,
            PRIMARY KEY (tenant, span_s, start_s, model, backend, endpoint, operation)
        ) WITHOUT ROWID
        """,
    ),
    (
        # position: in the order they were made. used: as of responses. items and size_bytes: of all its items together.
        """
        CREATE TABLE sessions (
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            position INTEGER NOT NULL,
            used INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            items INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL,
            parent_id TEXT,
            title TEXT,
            metadata BLOB NOT NULL,
            PRIMARY KEY (tenant, id)
        ) WITHOUT ROWID
        """,
        "CREATE UNIQUE INDEX sessions_in_order ON sessions (tenant, position)",
        "CREATE INDEX sessions_by_use ON sessions (tenant, used, updated_at)",
        # turn: what came together, and goes together when a session is too long.
        """
        CREATE TABLE session_items (
            tenant TEXT NOT NULL,
            session_id TEXT NOT NULL,
            position INTEGER NOT NULL,
            turn INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL,
            id TEXT NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (tenant, session_id, position)
        )
        """,
        "CREATE UNIQUE INDEX session_items_by_id ON session_items (tenant, session_id, id)",
        # The session of a turn, so that those that continue it stay in it.
        "ALTER TABLE responses ADD COLUMN session_id TEXT",
    ),
    (
        # at and ended_at: unix seconds; a run that is live has not ended. Rows are listed in the order they were made.
        "ALTER TABLE events ADD COLUMN at REAL NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN ended_at REAL",
        "UPDATE runs SET ended_at = created_at WHERE status NOT IN ('queued', 'in_progress')",
        "CREATE INDEX runs_by_tenant ON runs (tenant)",
        "CREATE INDEX runs_by_end ON runs (ended_at) WHERE ended_at IS NOT NULL",
    ),
    (
        # answer_id: of what was answered, a completion or a response. data: the answer; empty where it is a response in the store.
        # size_bytes stands in an index, so that a tenant's answers are counted without reading them.
        """
        CREATE TABLE keyed_answers (
            tenant TEXT NOT NULL,
            key TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            size_bytes INTEGER NOT NULL,
            answer_id TEXT NOT NULL,
            fingerprint BLOB NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (tenant, key)
        )
        """,
        "CREATE INDEX keyed_answers_by_age ON keyed_answers (tenant, created_at, size_bytes)",
        "CREATE INDEX keyed_answers_by_end ON keyed_answers (created_at)",
        "CREATE INDEX keyed_answers_by_answer ON keyed_answers (tenant, answer_id)",
    ),
    (
        # Events as ordinary rows, their data behind everything else. Copied in the order of their key, a run's stay side by side.
        "ALTER TABLE events RENAME TO events_before",
        """
        CREATE TABLE events (
            tenant TEXT NOT NULL,
            run_id TEXT NOT NULL,
            sequence_number INTEGER NOT NULL,
            type TEXT NOT NULL,
            at REAL NOT NULL,
            data BLOB NOT NULL,
            PRIMARY KEY (tenant, run_id, sequence_number)
        )
        """,
        """
        INSERT INTO events (tenant, run_id, sequence_number, type, at, data)
        SELECT tenant, run_id, sequence_number, type, at, data FROM events_before
        ORDER BY tenant, run_id, sequence_number
        """,
        "DROP TABLE events_before",
    ),
    (
        # How often a server has left while the run was in progress. That says nothing against the run, as a crash does.
        "ALTER TABLE runs ADD COLUMN stops INTEGER NOT NULL DEFAULT 0",
    ),
)
