-- Locked by the transaction itself, for as long as the work takes: a worker that
-- dies frees its rows, but nobody can tell who has them, nor since when.
BEGIN;
SELECT array_agg(id) AS ids, string_agg(payload, '') AS payloads
FROM (
    SELECT id, payload FROM fetchlock_limit.work
    WHERE topic = :topic ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED
) locked \gset
DELETE FROM fetchlock_limit.work WHERE topic = :topic AND id = ANY (:ids::bigint[]);
COMMIT;
