-- create: put tasks on their lanes, or say why not.
-- $1 shard smallint, $2 requests json[], $3 default_retries integer, $4 lanes_are_final boolean
-- A request is {"tasks": […]}. Unless the lanes are final, one task without a
-- lane stops the whole statement (missing_lanes > 0): the caller makes the lanes
-- and asks again, so that the order within a request is kept.
-- Returns a row per request (a task that was asked for alone is shown, so that telling of it
-- needs no second look), and with the first what to wake: per lane how many
-- tasks came and the position of the first that is ready; and in how many
-- milliseconds the next delayed one is due.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), stem AS MATERIALIZED (
    -- A UUIDv7 (RFC 9562): milliseconds, the shard, 46 random bits, and a counter, so that the
    -- tasks of a statement are neighbours in every index and sort as they were created. A batch
    -- is far from having 65,536 tasks: its requests have 256 KiB, or it is one request alone.
    SELECT lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')
           || '7' || lpad(to_hex($1::smallint::integer), 3, '0')
           || substr(gen_random_uuid()::text, 20, 13) AS stem
), item AS MATERIALIZED (
    SELECT
        r.request, row_number() OVER () AS item, f.*, l.lane_id,
        (s.stem || lpad(to_hex(row_number() OVER ()), 4, '0'))::uuid AS id,
        coalesce(f."availableAt", now() + f."delayMs" * interval '1 millisecond', now())
            AS available_at,
        CASE WHEN f."uniqueKey" IS NOT NULL THEN md5(f::text) END AS fingerprint,
        CASE
            WHEN f."delayMs" IS NOT NULL AND f."availableAt" IS NOT NULL
                THEN 'delayMs and availableAt exclude each other'
            WHEN l.lane_id IS NULL AND $4::boolean
                THEN 'the topic is too long or has too many priorities'
        END AS refusal,
        CASE WHEN f."delayMs" IS NOT NULL AND f."availableAt" IS NOT NULL THEN '/availableAt'
             ELSE '/topic' END AS refused_member
    FROM stem s
    CROSS JOIN request r
    CROSS JOIN LATERAL json_to_recordset(r.tasks) AS f (
        topic text, variables json, priority integer, "businessKey" text, retries integer,
        "delayMs" bigint, "availableAt" timestamptz, "uniqueKey" text, "processInstanceId" text,
        "processDefinitionId" text, "processDefinitionKey" text, "activityId" text,
        traceparent text)
    LEFT JOIN LATERAL (
        SELECT l.lane_id FROM fetchlock.lane l
        WHERE l.topic = f.topic AND l.tenant_id = ''
          AND l.process_definition_id = coalesce(f."processDefinitionId", '')
          AND l.priority = coalesce(f.priority, 0) AND l.shard = $1
        LIMIT 1
    ) l ON true
), missing AS MATERIALIZED (
    SELECT count(*) AS lanes FROM item WHERE lane_id IS NULL AND refusal IS NULL
), keyed AS (
    -- Sorted, so that two batches with the same keys wait for each other in one order.
    INSERT INTO fetchlock.unique_key (key, shard, task_id, fingerprint)
    SELECT "uniqueKey", $1, id, fingerprint FROM item
    WHERE "uniqueKey" IS NOT NULL AND refusal IS NULL AND (SELECT lanes = 0 FROM missing)
    ORDER BY "uniqueKey", request, item
    ON CONFLICT DO NOTHING
    RETURNING task_id
), fresh AS MATERIALIZED (
    SELECT * FROM item
    WHERE refusal IS NULL AND (SELECT lanes = 0 FROM missing)
      AND ("uniqueKey" IS NULL OR id IN (SELECT task_id FROM keyed))
    ORDER BY request, item
), asked AS (
    INSERT INTO fetchlock.task (
        id, lane_id, shard, business_key, process_instance_id, process_definition_key,
        activity_id, traceparent, variables)
    SELECT id, lane_id, $1, "businessKey", "processInstanceId", "processDefinitionKey",
           "activityId", traceparent, coalesce(variables, '{}')
    FROM fresh
), opened AS (
    INSERT INTO fetchlock.open_task (
        id, position, available_at, lane_id, state, retries, size_bytes, shard, returned)
    SELECT id, nextval('fetchlock.position'), available_at, lane_id,
           (CASE WHEN available_at > now() THEN 'delayed' ELSE 'ready' END)::fetchlock.open_state,
           coalesce(retries, $3), coalesce(octet_length(variables::text), 2), $1,
           available_at > now()
    FROM fresh
    RETURNING lane_id, position, available_at, state
), woken AS MATERIALIZED (
    SELECT lane_id, count(*) AS tasks, min(position) FILTER (WHERE state = 'ready') AS position,
           min(available_at) FILTER (WHERE state = 'delayed') AS due_at
    FROM opened GROUP BY lane_id
), told AS MATERIALIZED (
    SELECT i.request,
        string_agg(CASE
            WHEN i.refusal IS NOT NULL
                THEN json_build_object('code', 'invalid', 'detail', i.refusal, 'errors',
                    json_build_array(json_build_object(
                        'pointer', i.refused_member, 'message', i.refusal)))::text
            WHEN i."uniqueKey" IS NOT NULL AND i.id NOT IN (SELECT task_id FROM keyed)
                THEN json_build_object('code', 'duplicate', 'uniqueKey', i."uniqueKey",
                                       'fingerprint', i.fingerprint)::text
            WHEN i.alone
                THEN json_build_object('id', i.id, 'task', json_build_object(
                    'id', i.id, 'topic', i.topic, 'state', 'CREATED',
                    'priority', coalesce(i.priority, 0), 'businessKey', i."businessKey",
                    'processInstanceId', i."processInstanceId",
                    'processDefinitionId', i."processDefinitionId",
                    'processDefinitionKey', i."processDefinitionKey",
                    'activityId', i."activityId", 'tenantId', NULL, 'traceparent', i.traceparent,
                    'variables', coalesce(i.variables, '{}'), 'result', NULL,
                    'retries', coalesce(i.retries, $3), 'attempt', 0, 'workerId', NULL,
                    'lockExpiresAt', NULL, 'availableAt', i.available_at, 'createdAt', now(),
                    'finishedAt', NULL, 'errorCode', NULL, 'errorMessage', NULL,
                    'errorDetails', NULL, 'progress', NULL))::text
            ELSE '{"id":"' || i.id || '"}'
        END, ',' ORDER BY i.item) AS results,
        count(*) FILTER (WHERE i.refusal IS NOT NULL OR i."uniqueKey" IS NOT NULL
                           AND i.id NOT IN (SELECT task_id FROM keyed)) AS refused
    FROM (SELECT *, count(*) OVER (PARTITION BY request) = 1 AS alone FROM item) i
    GROUP BY i.request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused,
       (SELECT lanes FROM missing)::integer AS missing_lanes,
       w.lanes, w.counts, w.positions, w.due_ms
FROM request r
LEFT JOIN told t USING (request)
LEFT JOIN (
    SELECT array_agg(lane_id) AS lanes, array_agg(tasks::integer) AS counts,
           array_agg(position) AS positions,
           (extract(epoch FROM min(due_at) - now()) * 1000)::double precision AS due_ms
    FROM woken
) w ON r.request = 1
ORDER BY r.request;
