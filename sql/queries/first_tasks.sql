-- first_tasks: the task that each of these keys already stands for.
-- $1 shard smallint, $2 keys text[]
SELECT u.key, u.task_id::text AS task_id, u.fingerprint
FROM unnest($2::text[]) AS k (key)
CROSS JOIN LATERAL (
    SELECT u.key, u.task_id, u.fingerprint FROM fetchlock.unique_key u
    WHERE u.key = k.key AND u.tenant_id = '' AND u.shard = $1 LIMIT 1
) u;
