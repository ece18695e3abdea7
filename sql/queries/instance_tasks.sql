-- instance_tasks: the first tasks of a process instance, without their variables and results.
-- $1 shard smallint, $2 process_instance_id text, $3 tasks_max bigint
-- In the order of their creation, finished or not. A task that belongs to none is an instance by
-- itself, under its own id.
SELECT f.state IS NOT NULL AS is_finished, json_build_object(
    'id', i.id, 'topic', l.topic,
    'state', CASE WHEN f.state IS NOT NULL THEN upper(f.state::text)
                  WHEN o.state IN ('delayed', 'ready') THEN 'CREATED'
                  ELSE upper(o.state::text) END,
    'priority', l.priority, 'businessKey', t.business_key,
    'processInstanceId', t.process_instance_id,
    'processDefinitionId', nullif(l.process_definition_id, ''),
    'processDefinitionKey', nullif(l.process_definition_key, ''),
    'activityId', t.activity_id, 'tenantId', nullif(l.tenant_id, ''),
    'retries', coalesce(o.retries, f.retries),
    'createdAt', t.created_at, 'finishedAt', f.finished_at,
    'errorMessage', left(coalesce(o.error_message, f.error_message), 666)
)::text AS task
FROM (
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
    WHERE t.process_instance_id IS NULL
) i
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1) t
LEFT JOIN LATERAL (
    SELECT * FROM fetchlock.open_task o WHERE o.id = i.id AND o.shard = $1 LIMIT 1) o ON true
LEFT JOIN LATERAL (
    SELECT * FROM fetchlock.outcome f WHERE f.id = i.id AND f.shard = $1 LIMIT 1) f ON true
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.lane l
    WHERE l.lane_id = coalesce(o.lane_id, f.lane_id, t.lane_id) AND l.shard = $1 LIMIT 1) l
ORDER BY i.id;
