-- lane_beside: make the lane beside a task's own that has another priority.
-- $1 shard smallint, $2 task_id text, $3 priority integer, $4 priorities_max bigint,
-- $5 lanes_max bigint
-- Returns nothing. A lane that would break a limit is not made.
INSERT INTO fetchlock.lane (
    topic, tenant_id, process_definition_id, process_definition_key,
    process_definition_version_tag, priority, shard)
SELECT l.topic, l.tenant_id, l.process_definition_id, l.process_definition_key,
       l.process_definition_version_tag, $3, $1
FROM (
    SELECT t.lane_id FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
) t
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.lane l WHERE l.lane_id = t.lane_id AND l.shard = $1 LIMIT 1
) l
CROSS JOIN LATERAL (
    SELECT count(DISTINCT p.priority) AS taken, count(*) AS lanes,
           bool_or(p.priority = $3) AS known
    FROM fetchlock.lane p WHERE p.topic = l.topic AND p.shard = $1
) p
WHERE (p.known OR p.taken < $4) AND p.lanes < $5
ON CONFLICT DO NOTHING;
