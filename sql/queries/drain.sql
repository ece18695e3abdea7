-- drain: wish that a worker finishes what it has and stops, or take the wish back.
-- $1 shard smallint, $2 worker_id text, $3 is_wished boolean
WITH wished AS (
    INSERT INTO fetchlock.worker (worker_id, shard)
    SELECT $2::text, $1 WHERE $3::boolean
    ON CONFLICT DO NOTHING
)
DELETE FROM fetchlock.worker w
WHERE w.worker_id = $2 AND w.shard = $1 AND NOT $3::boolean;
