"""The statements for answers by idempotency key. As all others: plain SQL, bound parameters, the tenant first."""

SAVE = """
    INSERT INTO keyed_answers (tenant, key, created_at, size_bytes, answer_id, fingerprint, data)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (tenant, key) DO UPDATE SET
        created_at = excluded.created_at, size_bytes = excluded.size_bytes, answer_id = excluded.answer_id,
        fingerprint = excluded.fingerprint, data = excluded.data
"""
LOAD = """
    SELECT key, fingerprint, answer_id, created_at, data FROM keyed_answers WHERE tenant = ? AND key = ? AND created_at > ?
"""
COUNT = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM keyed_answers WHERE tenant = ?"
OLDEST = "SELECT rowid, size_bytes FROM keyed_answers WHERE tenant = ? ORDER BY created_at, rowid"
DELETE_ROW = "DELETE FROM keyed_answers WHERE rowid = ?"
FORGET = "DELETE FROM keyed_answers WHERE tenant = ? AND answer_id = ?"
DELETE_EXPIRED = "DELETE FROM keyed_answers WHERE created_at <= ?"
