-- instance_tasks: the first tasks of a process instance, in the order of their creation.
-- $1 shard smallint, $2 process_instance_id text, $3 tasks_max bigint
-- A task that belongs to none is an instance by itself, under its own id.
SELECT t.id
FROM (
    SELECT t.id FROM fetchlock.task t
    WHERE t.process_instance_id = $2 AND t.shard = $1
    ORDER BY t.process_instance_id, t.id LIMIT $3
) t
UNION ALL
SELECT t.id
FROM (
    SELECT t.id, t.process_instance_id FROM fetchlock.task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
) t
WHERE t.process_instance_id IS NULL;
