"""Every statement, except those of the migrations. Plain SQL with bound parameters; the tenant is always the first.

A statement is a constant: what a request brings is bound, and lists are bound as JSON (`json_each`) or row by row.
"""

from trunkline.ports.usage import BUCKETS_S, ERROR_CLASSES

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# Responses. `used` orders them by use; a hidden one is only there for the turns that continue it.

IS_HIDDEN = "SELECT hidden FROM responses WHERE tenant = ? AND id = ?"
RESPONSE_STANDS = "SELECT 1 FROM responses WHERE tenant = ? AND id = ? AND hidden = 0 AND created_at > ?"
INSERT_RESPONSE = """
    INSERT INTO responses (tenant, id, parent_id, conversation_id, name, status, model, created_at, background, hidden,
                           used, context, input, output, object, session_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?)
"""
UPDATE_RESPONSE = """
    UPDATE responses
    SET conversation_id = ?3, name = ?4, status = ?5, model = ?6, created_at = ?7, background = ?8, hidden = 0,
        used = ?9, input = ?10, output = ?11, object = ?12
    WHERE tenant = ?1 AND id = ?2
"""
LOAD_RESPONSE = """
    SELECT id, object, input, output, status, model, created_at, parent_id, conversation_id, name, background,
           session_id
    FROM responses WHERE tenant = ? AND id = ? AND hidden = 0 AND created_at > ?
"""
HISTORY = """
    WITH RECURSIVE chain (id, parent_id, depth) AS (
        SELECT id, parent_id, 0 FROM responses WHERE tenant = ?1 AND id = ?2 AND hidden = 0 AND created_at > ?3
        UNION ALL
        SELECT parent.id, parent.parent_id, chain.depth + 1
        FROM chain CROSS JOIN responses AS parent ON parent.tenant = ?1 AND parent.id = chain.parent_id
    )
    SELECT turn.context, turn.input, turn.output
    FROM chain CROSS JOIN responses AS turn ON turn.tenant = ?1 AND turn.id = chain.id
    ORDER BY chain.depth DESC
"""
PARENT_OF = "SELECT parent_id FROM responses WHERE tenant = ? AND id = ? AND hidden = ?"
IS_CONTINUED = "SELECT 1 FROM responses WHERE tenant = ? AND parent_id = ? LIMIT 1"
HIDE_RESPONSE = "UPDATE responses SET hidden = 1, name = NULL, object = x'' WHERE tenant = ? AND id = ?"
DELETE_RESPONSE = "DELETE FROM responses WHERE tenant = ? AND id = ?"
USE_RESPONSE = "UPDATE responses SET used = ?3 WHERE tenant = ?1 AND id = ?2 AND hidden = 0 AND used < ?3"
LAST_USE = """
    SELECT max(coalesce((SELECT max(used) FROM responses), 0), coalesce((SELECT max(used) FROM sessions), 0))
"""
COUNT_RESPONSES = "SELECT count(*) FROM responses WHERE tenant = ? AND hidden = 0"
LEAST_USED = """
    SELECT id FROM responses
    WHERE tenant = ? AND id <> ? AND hidden = 0 AND status NOT IN ('queued', 'in_progress')
    ORDER BY used LIMIT ?
"""
EXPIRED_RESPONSES = """
    SELECT tenant, id FROM responses
    WHERE hidden = 0 AND created_at <= ? AND status NOT IN ('queued', 'in_progress') LIMIT ?
"""

POINT_NAME = """
    INSERT INTO names (tenant, name, response_id) VALUES (?, ?, ?)
    ON CONFLICT (tenant, name) DO UPDATE SET response_id = excluded.response_id
"""
NAMED_RESPONSE = """
    SELECT response_id FROM names JOIN responses ON responses.tenant = names.tenant AND responses.id = response_id
    WHERE names.tenant = ? AND names.name = ? AND created_at > ?
"""
CLEAR_NAMES = "DELETE FROM names WHERE tenant = ? AND response_id = ?"

# Runs and their events.

INSERT_RUN = "INSERT INTO runs (tenant, id, status, created_at, request) VALUES (?, ?, ?, ?, ?)"
RUN_STATE = """
    SELECT status, (SELECT coalesce(max(sequence_number) + 1, 0) FROM events WHERE tenant = ?1 AND run_id = ?2)
    FROM runs WHERE tenant = ?1 AND id = ?2
"""
START_RUN = "UPDATE runs SET status = 'in_progress' WHERE tenant = ? AND id = ?"
REQUEUE_RUN = "UPDATE runs SET status = 'queued' WHERE tenant = ? AND id = ?"
NOTE_STOP = "UPDATE runs SET stops = stops + 1 WHERE tenant = ? AND id = ? AND status = 'in_progress'"
END_RUN = "UPDATE runs SET status = ?3, ended_at = ?4, request = x'' WHERE tenant = ?1 AND id = ?2"
DELETE_RUN = "DELETE FROM runs WHERE tenant = ? AND id = ?"
_INSERT_EVENT = "INSERT INTO events (tenant, run_id, sequence_number, type, data, at) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_EVENTS = tuple([_INSERT_EVENT + ", (?, ?, ?, ?, ?, ?)" * more for more in range(16)])
"""For one event, for two, and so on."""
READ_EVENTS = """
    SELECT sequence_number, type, data, at FROM events
    WHERE tenant = ? AND run_id = ? AND sequence_number > ? ORDER BY sequence_number LIMIT ?
"""
DELETE_EVENTS = "DELETE FROM events WHERE tenant = ? AND run_id = ?"
_RUN_COLUMNS = """
    SELECT runs.tenant, runs.id, runs.status, runs.request, runs.created_at,
           (SELECT coalesce(max(sequence_number) + 1, 0) FROM events
            WHERE events.tenant = runs.tenant AND events.run_id = runs.id),
           runs.stops, responses.model, responses.session_id,
           (SELECT at FROM events WHERE events.tenant = runs.tenant AND events.run_id = runs.id
            ORDER BY sequence_number DESC LIMIT 1)
    FROM runs JOIN responses ON responses.tenant = runs.tenant AND responses.id = runs.id
"""
_KEPT = "(ended_at IS NULL OR ended_at > ?3)"
LOAD_RUN = _RUN_COLUMNS + f"WHERE runs.tenant = ?1 AND runs.id = ?2 AND {_KEPT}"
UNFINISHED_RUNS = _RUN_COLUMNS + "WHERE runs.status IN ('queued', 'in_progress') ORDER BY runs.created_at, runs.rowid"
RUN_POSITION = f"SELECT rowid FROM runs WHERE tenant = ?1 AND id = ?2 AND {_KEPT}"
_WANTED_RUNS = f"""
    WHERE runs.tenant = ?1 AND {_KEPT}
      AND (?4 IS NULL OR runs.status IN (SELECT value FROM json_each(?4)))
      AND (?5 IS NULL OR responses.session_id = ?5)
      AND (?6 IS NULL OR runs.id IN (SELECT value FROM json_each(?6)))
"""
RUNS_ASCENDING = _RUN_COLUMNS + _WANTED_RUNS + "AND runs.rowid > ?2 ORDER BY runs.rowid LIMIT ?7"
RUNS_DESCENDING = _RUN_COLUMNS + _WANTED_RUNS + "AND runs.rowid < ?2 ORDER BY runs.rowid DESC LIMIT ?7"
EXPIRED_RUNS = "SELECT tenant, id FROM runs WHERE ended_at <= ? LIMIT ?"

# Conversations and their items.

INSERT_CONVERSATION = "INSERT INTO conversations (tenant, id, created_at, metadata) VALUES (?, ?, ?, ?)"
LOAD_CONVERSATION = "SELECT id, created_at, metadata FROM conversations WHERE tenant = ? AND id = ?"
CONVERSATION_EXISTS = "SELECT 1 FROM conversations WHERE tenant = ? AND id = ?"
UPDATE_CONVERSATION = "UPDATE conversations SET created_at = ?3, metadata = ?4 WHERE tenant = ?1 AND id = ?2"
DELETE_CONVERSATION = "DELETE FROM conversations WHERE tenant = ? AND id = ?"
DELETE_ITEMS = "DELETE FROM items WHERE tenant = ? AND conversation_id = ?"
LAST_POSITION = "SELECT coalesce(max(position), 0) FROM items WHERE tenant = ? AND conversation_id = ?"
ADD_ITEM = """
    INSERT INTO items (tenant, conversation_id, position, id, data) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (tenant, conversation_id, id) DO NOTHING
"""
ITEM_POSITION = "SELECT position FROM items WHERE tenant = ? AND conversation_id = ? AND id = ?"
ITEMS_ASCENDING = """
    SELECT id, data FROM items WHERE tenant = ? AND conversation_id = ? AND position > ? ORDER BY position LIMIT ?
"""
ITEMS_DESCENDING = """
    SELECT id, data FROM items WHERE tenant = ? AND conversation_id = ? AND position < ? ORDER BY position DESC LIMIT ?
"""
LOAD_ITEM = "SELECT id, data FROM items WHERE tenant = ? AND conversation_id = ? AND id = ?"
DELETE_ITEM = "DELETE FROM items WHERE tenant = ? AND conversation_id = ? AND id = ?"

# Stored chat completions, in the order they were stored.

COMPLETION_EXISTS = "SELECT 1 FROM completions WHERE tenant = ? AND id = ?"
LAST_COMPLETION = "SELECT coalesce(max(position), 0) FROM completions WHERE tenant = ?"
INSERT_COMPLETION = """
    INSERT INTO completions (tenant, id, position, model, created_at, metadata, messages, object)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
REPLACE_COMPLETION = """
    UPDATE completions SET model = ?3, created_at = ?4, metadata = ?5, messages = ?6, object = ?7
    WHERE tenant = ?1 AND id = ?2
"""
UPDATE_COMPLETION = (
    "UPDATE completions SET metadata = ?4, object = ?5 WHERE tenant = ?1 AND id = ?2 AND created_at > ?3"
)
_COMPLETION_COLUMNS = "SELECT id, object, messages, model, created_at, metadata FROM completions "
LOAD_COMPLETION = _COMPLETION_COLUMNS + "WHERE tenant = ? AND id = ? AND created_at > ?"
COMPLETION_POSITION = "SELECT position FROM completions WHERE tenant = ? AND id = ? AND created_at > ?"
_WANTED = """
    WHERE tenant = ?1 AND created_at > ?2 AND (?3 IS NULL OR model = ?3)
      AND (?4 IS NULL OR NOT EXISTS (
          SELECT 1 FROM json_each(?4) AS wanted
          WHERE NOT EXISTS (
              SELECT 1 FROM json_each(CAST(completions.metadata AS TEXT)) AS had
              WHERE had.key = wanted.key AND had.type = wanted.type AND had.value IS wanted.value)))
"""
COMPLETIONS_ASCENDING = _COMPLETION_COLUMNS + _WANTED + "AND position > ?5 ORDER BY position LIMIT ?6"
COMPLETIONS_DESCENDING = _COMPLETION_COLUMNS + _WANTED + "AND position < ?5 ORDER BY position DESC LIMIT ?6"
DELETE_COMPLETION = "DELETE FROM completions WHERE tenant = ? AND id = ? AND created_at > ?"
COUNT_COMPLETIONS = "SELECT count(*) FROM completions WHERE tenant = ?"
DELETE_OLDEST_COMPLETIONS = """
    DELETE FROM completions WHERE tenant = ?1 AND position <= (
        SELECT position FROM completions WHERE tenant = ?1 ORDER BY position LIMIT 1 OFFSET ?2)
"""
DELETE_EXPIRED_COMPLETIONS = "DELETE FROM completions WHERE created_at <= ?"

# Usage, by minute and by hour. Tenants are few: each is looked up by itself, so that none needs another index.

_KEY = "tenant, span_s, start_s, model, backend, endpoint, operation"
_SUMMED = (
    *("requests", "streams", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    *("duration_s", "first_content_s"),
    *[f"error_{name}" for name in ERROR_CLASSES],
    *[f"duration_{bucket}" for bucket in range(len(BUCKETS_S) + 1)],
    *[f"first_{bucket}" for bucket in range(len(BUCKETS_S) + 1)],
)
_ALL_TENANTS = """
    WITH RECURSIVE tenants (tenant) AS (
        SELECT min(tenant) FROM usage
        UNION ALL
        SELECT (SELECT min(usage.tenant) FROM usage WHERE usage.tenant > tenants.tenant)
        FROM tenants WHERE tenants.tenant IS NOT NULL
    )
"""
ADD_USAGE = f"""
    INSERT INTO usage ({_KEY}, {", ".join(_SUMMED)}) VALUES ({", ".join("?" * (7 + len(_SUMMED)))})
    ON CONFLICT ({_KEY}) DO UPDATE SET {", ".join([f"{column} = usage.{column} + excluded.{column}" for column in _SUMMED])}
"""
READ_USAGE = f"""
    {_ALL_TENANTS}
    SELECT ?2 + (start_s - ?2) / ?4 * ?4,
           CASE WHEN ?5 THEN tenant END, CASE WHEN ?6 THEN model END, CASE WHEN ?7 THEN backend END,
           CASE WHEN ?8 THEN endpoint END, CASE WHEN ?9 THEN operation END,
           {", ".join([f"sum({column})" for column in _SUMMED])}
    FROM usage
    WHERE tenant IN (SELECT ?1 WHERE ?1 IS NOT NULL UNION ALL SELECT tenant FROM tenants WHERE ?1 IS NULL)
      AND span_s = ?16 AND start_s >= ?2 AND start_s < ?3
      AND (?10 IS NULL OR tenant IN (SELECT value FROM json_each(?10)))
      AND (?11 IS NULL OR model IN (SELECT value FROM json_each(?11)))
      AND (?12 IS NULL OR backend IN (SELECT value FROM json_each(?12)))
      AND (?13 IS NULL OR endpoint IN (SELECT value FROM json_each(?13)))
      AND (?14 IS NULL OR operation IN (SELECT value FROM json_each(?14)))
    GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6 LIMIT ?15
"""
DELETE_USAGE = f"""
    {_ALL_TENANTS}
    DELETE FROM usage WHERE tenant IN (SELECT tenant FROM tenants) AND span_s = ? AND start_s < ?
"""

# The file itself. Pragmas take no parameters; the numbers are ours.

APPLICATION = 0x74726B6C
"""`trkl` in the header of the file: whose it is."""

MARK = f"PRAGMA application_id = {APPLICATION}"
APPLICATION_ID = "PRAGMA application_id"
USER_VERSION = "PRAGMA user_version"
SET_USER_VERSION = "PRAGMA user_version = {:d}"
TABLES = "SELECT count(*) FROM sqlite_master"
WRITE_AHEAD = "PRAGMA journal_mode = WAL"
READ_ONLY = "PRAGMA query_only = ON"
SET_UP = (
    "PRAGMA synchronous = FULL",  # a commit is on the disk before anybody hears of it
    "PRAGMA fullfsync = ON",  # where a sync alone only reaches the drive's own memory (macOS)
    "PRAGMA wal_autocheckpoint = 2000",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -16000",
    "PRAGMA temp_store = MEMORY",
)
