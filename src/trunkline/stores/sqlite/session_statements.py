"""The statements about sessions. As in `statements`: constants, bound parameters, the tenant first."""

EXISTS = "SELECT 1 FROM sessions WHERE tenant = ? AND id = ? AND updated_at > ?"
INSERT = """
    INSERT INTO sessions (tenant, id, position, used, created_at, updated_at, items, size_bytes, parent_id, title, metadata)
    VALUES (?1, ?2, (SELECT coalesce(max(position), 0) + 1 FROM sessions WHERE tenant = ?1), ?3, ?4, ?5, 0, 0, ?6, ?7, ?8)
"""
_COLUMNS = "SELECT id, created_at, updated_at, title, metadata, parent_id, items FROM sessions "
LOAD = _COLUMNS + "WHERE tenant = ? AND id = ? AND updated_at > ?"
UPDATE = "UPDATE sessions SET title = ?4, metadata = ?5, used = ?6 WHERE tenant = ?1 AND id = ?2 AND updated_at > ?3"
DELETE = "DELETE FROM sessions WHERE tenant = ? AND id = ?"
POSITION = "SELECT position FROM sessions WHERE tenant = ? AND id = ? AND updated_at > ?"
ASCENDING = _COLUMNS + "WHERE tenant = ?1 AND updated_at > ?2 AND position > ?3 ORDER BY position LIMIT ?4"
DESCENDING = _COLUMNS + "WHERE tenant = ?1 AND updated_at > ?2 AND position < ?3 ORDER BY position DESC LIMIT ?4"

COUNT = "SELECT count(*) FROM sessions WHERE tenant = ?"
LEAST_USED = "SELECT id FROM sessions WHERE tenant = ? AND id <> ? ORDER BY used LIMIT ?"
EXPIRED = "SELECT tenant, id FROM sessions WHERE updated_at <= ? LIMIT ?"

# Items. `turn` numbers what was added together.

LAST_ITEM = """
    SELECT position, turn FROM session_items WHERE tenant = ? AND session_id = ? ORDER BY position DESC LIMIT 1
"""
ADD_ITEM = """
    INSERT INTO session_items (tenant, session_id, position, turn, size_bytes, id, data) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (tenant, session_id, id) DO NOTHING
"""
GROW = """
    UPDATE sessions SET items = items + ?3, size_bytes = size_bytes + ?4, updated_at = ?5, used = ?6
    WHERE tenant = ?1 AND id = ?2
"""
SIZE = "SELECT items, size_bytes FROM sessions WHERE tenant = ? AND id = ?"
SHRINK = "UPDATE sessions SET items = items - ?3, size_bytes = size_bytes - ?4 WHERE tenant = ?1 AND id = ?2"
TURNS = """
    SELECT turn, count(*), sum(size_bytes) FROM session_items WHERE tenant = ? AND session_id = ? GROUP BY turn ORDER BY turn
"""
DELETE_TURNS = "DELETE FROM session_items WHERE tenant = ? AND session_id = ? AND turn <= ?"
DELETE_ITEMS = "DELETE FROM session_items WHERE tenant = ? AND session_id = ?"
ITEM_POSITION = "SELECT position FROM session_items WHERE tenant = ? AND session_id = ? AND id = ?"
ITEMS_ASCENDING = """
    SELECT id, data FROM session_items WHERE tenant = ? AND session_id = ? AND position > ? ORDER BY position LIMIT ?
"""
ITEMS_DESCENDING = """
    SELECT id, data FROM session_items WHERE tenant = ? AND session_id = ? AND position < ? ORDER BY position DESC LIMIT ?
"""
COPY_ITEMS = """
    INSERT INTO session_items (tenant, session_id, position, turn, size_bytes, id, data)
    SELECT tenant, ?3, position, turn, size_bytes, id, data FROM session_items
    WHERE tenant = ?1 AND session_id = ?2 AND position <= ?4
"""
COUNT_ITEMS = """
    UPDATE sessions
    SET (items, size_bytes) = (
        SELECT count(*), coalesce(sum(size_bytes), 0) FROM session_items WHERE tenant = ?1 AND session_id = ?2)
    WHERE tenant = ?1 AND id = ?2
"""
