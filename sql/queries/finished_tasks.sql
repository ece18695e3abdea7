-- finished_tasks: which of these tasks are finished.
-- $1 shard smallint, $2 ids uuid[]
SELECT i.id
FROM unnest($2::uuid[]) AS i (id)
CROSS JOIN LATERAL (
    SELECT FROM fetchlock.outcome f WHERE f.id = i.id AND f.shard = $1 LIMIT 1
) f;
