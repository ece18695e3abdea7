-- get_tasks: tasks as the API shows them, finished or not; unknown ids give no row.
-- $1 shard smallint, $2 ids uuid[]
SELECT i.id, coalesce(f.state IS NOT NULL, false) AS is_finished, concat(left(json_build_object(
    'id', i.id, 'topic', l.topic,
    'state', CASE WHEN f.state IS NOT NULL THEN upper(f.state::text)
                  WHEN o.state IN ('delayed', 'ready') THEN 'CREATED'
                  ELSE upper(o.state::text) END,
    'priority', l.priority, 'businessKey', t.business_key,
    'processInstanceId', t.process_instance_id,
    'processDefinitionId', nullif(l.process_definition_id, ''),
    'processDefinitionKey', nullif(l.process_definition_key, ''),
    'processDefinitionVersionTag', nullif(l.process_definition_version_tag, ''),
    'activityId', t.activity_id,
    'tenantId', nullif(l.tenant_id, ''), 'traceparent', t.traceparent,
    'variables', coalesce(p.variables, t.variables), 'result', f.result,
    'retries', coalesce(o.retries, f.retries), 'failures', coalesce(o.failures, f.failures),
    'attempt', coalesce(o.attempt, f.attempt),
    'workerId', coalesce(o.worker_id, f.worker_id),
    'lockExpiresAt', CASE o.state WHEN 'locked' THEN o.lock_expires_at END,
    'callbackExpiresAt', CASE o.state WHEN 'awaiting' THEN o.lock_expires_at END,
    'availableAt', o.available_at, 'createdAt', t.created_at,
    'startedAt', coalesce(o.locked_at, f.locked_at), 'finishedAt', f.finished_at,
    'timesOutAt', CASE WHEN o.state <> 'failed' THEN o.deadline_at END,
    'cancelRequested', coalesce(o.cancel_requested, false),
    'errorCode', coalesce(o.error_code, f.error_code),
    'errorMessage', coalesce(o.error_message, f.error_message),
    'errorDetails', coalesce(o.error_details, f.error_details)
)::text, -1),
    CASE WHEN o.retries_set THEN ',"retriesSet":true' END,
    ',"variableTypes":' || nullif(coalesce(p.variable_types, t.variable_types)::text, '{}'),
    ',"resultTypes":' || nullif(f.result_types::text, '{}'),
    ',', coalesce(fetchlock.reported(i.id, $1), '"progress":null'), '}') AS task
FROM unnest($2::uuid[]) WITH ORDINALITY AS i (id, place)
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1) t
LEFT JOIN LATERAL (
    SELECT * FROM fetchlock.open_task o WHERE o.id = i.id AND o.shard = $1 LIMIT 1) o ON true
LEFT JOIN LATERAL (
    SELECT * FROM fetchlock.outcome f WHERE f.id = i.id AND f.shard = $1 LIMIT 1) f ON true
LEFT JOIN LATERAL (
    SELECT p.variables, p.variable_types FROM fetchlock.progress p
    WHERE p.id = i.id AND p.shard = $1 LIMIT 1) p ON true
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.lane l
    WHERE l.lane_id = coalesce(o.lane_id, f.lane_id, t.lane_id) AND l.shard = $1 LIMIT 1) l
ORDER BY i.place;
