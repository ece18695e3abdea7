-- create: put tasks on their lanes, or say why not; what somebody waits for is born locked.
-- $1 shard smallint, $2 requests json[], $3 default_retries integer, $4 lanes_are_final boolean
-- <born locked>
-- $5 lane_ids integer[], $6 ranks integer[], $7 returned boolean[], $8 floors bigint[],
-- $9 lock_durations_ms bigint[], $10 wanted_variables text[], $11 lanes_json text[],
-- $12 worker_ids text[], $13 shares integer[]
-- </born locked>
-- A request is {"tasks": […]}. Unless the lanes are final, one task without a
-- lane stops the whole statement (missing_lanes > 0): the caller makes the lanes
-- and asks again, so that the order within a request is kept.
-- What stands between <born locked> and </born locked> is left out where nobody waits: it would
-- cost a sixth of the statement. $5 to $13 are waiters and their scans, as in fetch_and_lock.
-- Where none of these lanes has anything ready, which the statement makes sure of itself, their
-- new tasks are the next in turn, and go to the waiters in the order of a fetch.
-- Returns a row per request (a task that was asked for alone is shown, so that telling of it
-- needs no second look), and with the first what to wake: per lane how many
-- tasks came and the position of the first that is ready; in how many
-- milliseconds the next delayed one is due; and what the waiters got.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), stem AS MATERIALIZED (
    -- A UUIDv7 (RFC 9562): milliseconds, the shard, 46 random bits, and a counter, so that the
    -- tasks of a statement are neighbours in every index and sort as they were created. A batch
    -- is far from having 65,536 tasks: its requests have 64 KiB, or it is one request alone.
    SELECT lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')
           || '7' || lpad(to_hex($1::smallint::integer), 3, '0')
           || substr(gen_random_uuid()::text, 20, 13) AS stem
), item AS MATERIALIZED (
    SELECT
        r.request, row_number() OVER () AS item, f.*, l.lane_id,
        (s.stem || lpad(to_hex(row_number() OVER ()), 4, '0'))::uuid AS id,
        coalesce(f."availableAt", now() + f."delayMs" * interval '1 millisecond', now())
            AS available_at,
        now() + f."totalTimeoutMs" * interval '1 millisecond' AS total_expires_at,
        CASE WHEN f."uniqueKey" IS NOT NULL THEN md5(f::text) END AS fingerprint,
        CASE
            WHEN f."delayMs" IS NOT NULL AND f."availableAt" IS NOT NULL
                THEN 'delayMs and availableAt exclude each other'
            WHEN l.lane_id IS NULL AND $4::boolean
                THEN 'the topic is too long, or has too many priorities or lanes'
        END AS refusal,
        CASE WHEN f."delayMs" IS NOT NULL AND f."availableAt" IS NOT NULL THEN '/availableAt'
             ELSE '/topic' END AS refused_member
    FROM stem s
    CROSS JOIN request r
    CROSS JOIN LATERAL json_to_recordset(r.tasks) AS f (
        topic text, variables json, priority integer, "businessKey" text, retries integer,
        "delayMs" bigint, "availableAt" timestamptz, "uniqueKey" text, "processInstanceId" text,
        "processDefinitionId" text, "processDefinitionKey" text,
        "processDefinitionVersionTag" text, "activityId" text, "tenantId" text, traceparent text,
        "executionTimeoutMs" bigint, "totalTimeoutMs" bigint, "variableTypes" jsonb)
    LEFT JOIN LATERAL (
        SELECT l.lane_id FROM fetchlock.lane l
        WHERE l.topic = f.topic AND l.priority = coalesce(f.priority, 0) AND l.shard = $1
          AND l.variant = fetchlock.lane_variant(
              coalesce(f."tenantId", ''), coalesce(f."processDefinitionId", ''),
              coalesce(f."processDefinitionKey", ''),
              coalesce(f."processDefinitionVersionTag", ''))
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
-- <born locked>
), scan AS MATERIALIZED (
    SELECT * FROM unnest($5::integer[], $6::integer[], $7::boolean[], $8::bigint[])
        WITH ORDINALITY AS s (lane_id, rank, returned, floor, scan)
), older AS MATERIALIZED (
    SELECT FROM scan s
    CROSS JOIN LATERAL (
        SELECT FROM fetchlock.open_task t
        WHERE t.state = 'ready' AND t.lane_id = s.lane_id AND t.returned = s.returned
          AND t.position > s.floor AND t.shard = $1
        LIMIT 1
    ) t
    LIMIT 1
), born AS MATERIALIZED (
    -- A lane stands twice among the scans, for its returned and for its fresh tasks.
    SELECT f.*, s.scan, row_number() OVER (ORDER BY s.rank, f.request, f.item)::integer AS turn
    FROM scan s JOIN fresh f USING (lane_id)
    WHERE NOT s.returned AND f.available_at <= now() AND NOT EXISTS (SELECT FROM older)
    ORDER BY turn LIMIT ($13::integer[])[cardinality($13::integer[])]
), lock AS MATERIALIZED (
    SELECT gen_random_uuid() AS token, jsonb_object_agg(
        id, ($12::text[])[1 + width_bucket(turn - 1, $13::integer[])]) AS worker_ids
    FROM born
-- </born locked>
), asked AS (
    INSERT INTO fetchlock.task (
        id, lane_id, shard, business_key, process_instance_id, activity_id, traceparent, variables,
        variable_types)
    SELECT id, lane_id, $1, "businessKey", "processInstanceId", "activityId", traceparent,
           coalesce(variables, '{}'), "variableTypes"
    FROM fresh
), opened AS (
    INSERT INTO fetchlock.open_task (
        id, position, available_at, lane_id, retries, size_bytes, shard, execution_timeout_ms,
        total_expires_at, deadline_at, state, returned
        -- <born locked>
        , attempt, worker_id, lock_token, locked_at, lock_expires_at
        -- </born locked>
    )
    SELECT f.id, nextval('fetchlock.position'), f.available_at, f.lane_id, coalesce(f.retries, $3),
           coalesce(octet_length(f.variables::text), 2)
               + coalesce(octet_length(f."variableTypes"::text), 0), $1, f."executionTimeoutMs",
           f.total_expires_at,
           -- <born locked>
           CASE WHEN lock.worker_ids ? f.id::text THEN least(
               f.total_expires_at, now() + f."executionTimeoutMs" * interval '1 millisecond')
           ELSE
           -- </born locked>
           f.total_expires_at
           -- <born locked>
           END
           -- </born locked>
           ,
           (CASE
               -- <born locked>
               WHEN lock.worker_ids ? f.id::text THEN 'locked'
               -- </born locked>
               WHEN f.available_at > now() THEN 'delayed' ELSE 'ready'
           END)::fetchlock.open_state,
           f.available_at > now()
           -- <born locked>
           OR coalesce(lock.worker_ids ? f.id::text, false),
           coalesce(lock.worker_ids ? f.id::text, false)::integer,
           lock.worker_ids ->> f.id::text,
           CASE WHEN lock.worker_ids ? f.id::text THEN lock.token END,
           CASE WHEN lock.worker_ids ? f.id::text THEN now() END,
           CASE WHEN lock.worker_ids ? f.id::text THEN now() + interval '1 millisecond'
               * ($9::bigint[])[array_position($5::integer[], f.lane_id)] END
           -- </born locked>
    FROM fresh f
    -- <born locked>
    , lock
    -- </born locked>
    RETURNING lane_id, position, available_at, state
), woken AS MATERIALIZED (
    SELECT lane_id, count(*) AS tasks, min(position) FILTER (WHERE state = 'ready') AS position,
           min(available_at) FILTER (WHERE state = 'delayed') AS due_at
           -- <born locked>
           , count(*) FILTER (WHERE state = 'locked') AS locked
           -- </born locked>
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
                -- By hand: json_build_object takes twice as long.
                THEN concat('{"id":"', i.id, '","task":{"id":"', i.id, '","topic":',
                    to_json(i.topic), ',"state":"CREATED","priority":', coalesce(i.priority, 0),
                    ',"businessKey":', coalesce(to_json(i."businessKey")::text, 'null'),
                    ',"processInstanceId":',
                    coalesce(to_json(i."processInstanceId")::text, 'null'),
                    ',"processDefinitionId":',
                    coalesce(to_json(nullif(i."processDefinitionId", ''))::text, 'null'),
                    ',"processDefinitionKey":',
                    coalesce(to_json(nullif(i."processDefinitionKey", ''))::text, 'null'),
                    ',"processDefinitionVersionTag":',
                    coalesce(to_json(nullif(i."processDefinitionVersionTag", ''))::text, 'null'),
                    ',"activityId":', coalesce(to_json(i."activityId")::text, 'null'),
                    ',"tenantId":', coalesce(to_json(nullif(i."tenantId", ''))::text, 'null'),
                    ',"traceparent":', coalesce(to_json(i.traceparent)::text, 'null'),
                    ',"variables":', coalesce(i.variables::text, '{}'),
                    ',"result":null,"retries":', coalesce(i.retries, $3),
                    ',"failures":0,"attempt":0,"workerId":null,"lockExpiresAt":null,"availableAt":',
                    to_json(i.available_at), ',"createdAt":', to_json(now()),
                    ',"timesOutAt":', coalesce(to_json(i.total_expires_at)::text, 'null'),
                    ',"startedAt":null,"finishedAt":null,"callbackExpiresAt":null,'
                    || '"cancelRequested":false,"errorCode":null,"errorMessage":null,'
                    || '"errorDetails":null,"progress":null',
                    ',"variableTypes":' || i."variableTypes"::text, '}}')
            ELSE '{"id":"' || i.id || '"}'
        END, ',' ORDER BY i.item) AS results,
        count(*) FILTER (WHERE i.refusal IS NOT NULL OR i."uniqueKey" IS NOT NULL
                           AND i.id NOT IN (SELECT task_id FROM keyed)) AS refused
    FROM (SELECT *, count(*) OVER (PARTITION BY request) = 1 AS alone FROM item) i
    GROUP BY i.request
-- <born locked>
), delivery AS MATERIALIZED (
    SELECT 1 + width_bucket(turn - 1, $13::integer[]) AS waiter, count(*) AS tasks,
        '[' || string_agg(concat(
            '{"id":"', b.id, '","state":"LOCKED",', ($11::text[])[b.scan],
            ',"lockToken":"', lock.token, '","lockExpiresAt":',
            to_json(now() + ($9::bigint[])[b.scan] * interval '1 millisecond'),
            ',"result":null,"finishedAt":null,"callbackExpiresAt":null,"cancelRequested":false,'
            || '"progress":null,"failures":0,"attempt":1,"startedAt":', to_json(now()), ',"timesOutAt":',
            coalesce(to_json(least(b.total_expires_at, now()
                + b."executionTimeoutMs" * interval '1 millisecond'))::text, 'null'),
            ',"workerId":',
            to_json(lock.worker_ids ->> b.id::text), ',"retries":', coalesce(b.retries, $3),
            ',"availableAt":', to_json(b.available_at), ',"createdAt":', to_json(now()),
            ',"businessKey":', coalesce(to_json(b."businessKey")::text, 'null'),
            ',"processInstanceId":', coalesce(to_json(b."processInstanceId")::text, 'null'),
            ',"activityId":', coalesce(to_json(b."activityId")::text, 'null'),
            ',"traceparent":', coalesce(to_json(b.traceparent)::text, 'null'),
            ',"errorCode":null,"errorMessage":null,"errorDetails":null,"variables":',
            CASE WHEN ($10::text[])[b.scan] IS NULL THEN coalesce(b.variables, '{}') ELSE (
                SELECT coalesce(json_object_agg(n.name, b.variables -> n.name), '{}')
                FROM json_array_elements_text(($10::text[])[b.scan]::json) AS n (name)
                WHERE b.variables -> n.name IS NOT NULL) END,
            ',"variableTypes":' || b."variableTypes"::text,
            '}'), ',' ORDER BY b.turn) || ']' AS body
    FROM born b, lock
    GROUP BY 1
-- </born locked>
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused,
       (SELECT lanes FROM missing)::integer AS missing_lanes,
       w.lanes, w.counts, w.positions, w.due_ms
       -- <born locked>
       , w.locked, d.waiters, d.counts AS delivered, d.bodies,
       EXISTS (SELECT FROM older) AS has_older
       -- </born locked>
FROM request r
LEFT JOIN told t USING (request)
LEFT JOIN (
    SELECT array_agg(lane_id) AS lanes, array_agg(tasks::integer) AS counts,
           array_agg(position) AS positions,
           (extract(epoch FROM min(due_at) - now()) * 1000)::double precision AS due_ms
           -- <born locked>
           , array_agg(locked::integer) AS locked
           -- </born locked>
    FROM woken
) w ON r.request = 1
-- <born locked>
LEFT JOIN (
    SELECT array_agg(waiter) AS waiters, array_agg(tasks::integer) AS counts,
           array_agg(body) AS bodies
    FROM delivery
) d ON r.request = 1
-- </born locked>
ORDER BY r.request;
