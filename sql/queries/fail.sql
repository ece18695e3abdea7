-- fail: record failures; the task waits for its retry, or becomes an incident.
-- $1 shard smallint, $2 requests json[],
-- $3 retry_base_ms double precision, $4 retry_factor double precision,
-- $5 retry_cap_ms double precision, $6 variables_bytes_max integer
-- A request is {"workerId", "tasks": [{"id", "lockToken"?, "errorMessage", "errorDetails"?,
-- "retries"?, "retryTimeoutMs"?, "variables"?, "variableTypes"?, "acceptsLate"?}, …]}. What a
-- worker leaves open the policy decides: one retry fewer, and a wait (see retry_wait). Its
-- variables are set, for the next attempt. Whose cancellation was requested is not tried again:
-- it is cancelled.
-- Returns as complete does, and with the first row what to wake.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS lock_token, f."errorMessage" AS error_message,
           f."errorDetails" AS error_details, f.retries AS given_retries,
           f."retryTimeoutMs" AS given_timeout_ms, f.variables, f."variableTypes" AS types,
           f."acceptsLate" AS accepts_late, fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, "errorMessage" text, "errorDetails" text,
        retries integer, "retryTimeoutMs" bigint, variables json, "variableTypes" jsonb,
        "acceptsLate" boolean)) WITH ORDINALITY
        AS f (id, "workerId", "lockToken", "errorMessage", "errorDetails", retries,
              "retryTimeoutMs", variables, "variableTypes", "acceptsLate", item)
), judged AS MATERIALIZED (
    SELECT i.*, t.lane_id, t.position, t.cancel_requested, t.cancel_reason, t.locked_at, t.attempt,
           t.expiries, t.failures + 1 AS failures,
           coalesce(t.lock_token, t.lost_token) AS held_token,
           s.is_too_large,
           coalesce(t.is_held AND (s.is_too_large OR row_number() OVER of_holder = 1), false)
               AS is_holder,
           coalesce(i.given_retries, greatest(t.retries - 1, 0)) AS retries,
           now() + coalesce(interval '1 millisecond' * i.given_timeout_ms,
                            fetchlock.retry_wait(t.failures, $3, $4, $5)) AS available_at
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.*, fetchlock.may_end(t, i.worker_id, i.lock_token, i.accepts_late) AS is_held
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(t.size_bytes + octet_length(i.variables::text) > $6, false) AS is_too_large
    ) s
    -- What is refused for its size does not cost a smaller one its turn.
    WINDOW of_holder AS (
        PARTITION BY i.id, t.is_held, s.is_too_large ORDER BY i.request, i.item)
), next AS MATERIALIZED (
    SELECT *, is_holder AND NOT is_too_large AS is_held,
              CASE WHEN cancel_requested THEN 'cancelled'
                   WHEN retries = 0 THEN 'failed' WHEN available_at > now() THEN 'delayed'
                   ELSE 'ready' END AS state
    FROM judged
), asked AS MATERIALIZED (
    -- A map instead of a join: see fetch_and_lock.
    SELECT jsonb_object_agg(id, jsonb_build_array(
        state, retries, available_at, error_message, error_details,
        CASE WHEN variables IS NOT NULL
             THEN fetchlock.set_variables(id, variables, types, '{}', $1) END)) AS by_id
    FROM next WHERE is_held AND state <> 'cancelled'
), moved AS (
    UPDATE fetchlock.open_task t
    SET state = (asked.by_id -> t.id::text ->> 0)::fetchlock.open_state,
        retries = (asked.by_id -> t.id::text ->> 1)::integer,
        available_at = (asked.by_id -> t.id::text ->> 2)::timestamptz,
        error_message = asked.by_id -> t.id::text ->> 3,
        error_details = asked.by_id -> t.id::text ->> 4,
        size_bytes = coalesce((asked.by_id -> t.id::text ->> 5)::integer, t.size_bytes),
        reported = t.reported OR (asked.by_id -> t.id::text ->> 5) IS NOT NULL,
        error_code = NULL, failures = t.failures + 1, lost_by = NULL, lost_token = NULL,
        worker_id = NULL, lock_token = NULL, locked_at = NULL, lock_expires_at = NULL
    FROM asked
    WHERE t.id = ANY (ARRAY(SELECT id FROM next WHERE is_held AND state <> 'cancelled'))
      AND t.shard = $1
), closed AS (
    DELETE FROM fetchlock.open_task t
    WHERE t.id = ANY (ARRAY(SELECT id FROM next WHERE is_held AND state = 'cancelled'))
      AND t.shard = $1
), written AS (
    INSERT INTO fetchlock.outcome (
        id, locked_at, lock_token, lane_id, state, retries, attempt, failures, expiries, shard,
        worker_id, error_message, error_details)
    SELECT id, locked_at, held_token, lane_id, 'cancelled', retries, attempt, failures, expiries,
           $1, worker_id, coalesce(cancel_reason, error_message), error_details
    FROM next WHERE is_held AND state = 'cancelled'
), told AS (
    SELECT request,
           string_agg(CASE WHEN is_held THEN json_build_object(
                   'id', id, 'outcome', 'done',
                   'state', CASE WHEN state IN ('delayed', 'ready') THEN 'CREATED'
                                 ELSE upper(state) END, 'retries', retries,
                   'availableAt', CASE WHEN state <> 'cancelled' THEN available_at END)::text
               WHEN is_holder THEN json_build_object(
                   'id', given_id, 'code', 'too_large', 'bytesMax', $6,
                   'detail', 'The variables would have more than ' || $6 || ' bytes.')::text
               ELSE json_build_object('id', given_id, 'code', 'refused')::text
               END, ',' ORDER BY item) AS results,
           count(*) FILTER (WHERE NOT is_held) AS refused
    FROM next GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused, w.lanes, w.counts, w.positions, w.due_ms,
       w.incidents, w.cancelled
FROM request r
LEFT JOIN told t USING (request)
LEFT JOIN (
    SELECT array_agg(lane_id) AS lanes, array_agg(tasks) AS counts,
           array_agg(position) AS positions,
           (extract(epoch FROM min(due_at) - now()) * 1000)::double precision AS due_ms,
           array_agg(incidents) AS incidents, array_agg(cancelled) AS cancelled
    FROM (
        SELECT lane_id, count(*)::integer AS tasks,
               count(*) FILTER (WHERE state = 'failed')::integer AS incidents,
               count(*) FILTER (WHERE state = 'cancelled')::integer AS cancelled,
               min(position) FILTER (WHERE state = 'ready') AS position,
               min(available_at) FILTER (WHERE state = 'delayed') AS due_at
        FROM next WHERE is_held GROUP BY lane_id
    ) c
) w ON r.request = 1
ORDER BY r.request;
