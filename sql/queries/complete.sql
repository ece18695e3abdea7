-- complete: finish tasks, each only under the lock that its worker still holds.
-- $1 shard smallint, $2 requests json[]
-- A request is {"workerId", "tasks": [{"id", "workerId"?, "lockToken"?, "variables"?,
-- "variableTypes"?, "acceptsLate"?}, …]}. What is late, and accepted if the topic does not say
-- otherwise: the lock has run out, and nobody has taken the task since (see may_end).
-- Returns a row per request: the results as a JSON text, in order, and how many
-- were refused. Why, `refusals` says: it needs a later snapshot than this one.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS lock_token, f.variables, f."variableTypes" AS types,
           f."acceptsLate" AS accepts_late, fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, variables json, "variableTypes" jsonb,
        "acceptsLate" boolean)) WITH ORDINALITY
        AS f (id, "workerId", "lockToken", variables, "variableTypes", "acceptsLate", item)
), judged AS MATERIALIZED (
    -- Sorted by id, so that two batches with the same tasks wait for each other
    -- in one order. Looked up one by one: a join would let the planner walk the
    -- index of locked tasks instead. Of a task that is named twice the first mention
    -- by its holder counts: one under a stale lock must not cost the holder its own.
    SELECT i.*, t.lane_id, t.locked_at, t.retries, t.attempt, t.failures, t.expiries,
           coalesce(t.lock_token, t.lost_token) AS held_token,
           coalesce(t.is_held AND row_number() OVER of_holder = 1, false) AS is_held
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.*, fetchlock.may_end(t, i.worker_id, i.lock_token, i.accepts_late) AS is_held
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
    WINDOW of_holder AS (PARTITION BY i.id, t.is_held ORDER BY i.request, i.item)
), closed AS (
    DELETE FROM fetchlock.open_task t
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_held)) AND t.shard = $1
), written AS (
    INSERT INTO fetchlock.outcome (
        id, locked_at, lock_token, lane_id, state, retries, attempt, failures, expiries, shard,
        worker_id, result, result_types)
    SELECT id, locked_at, held_token, lane_id, 'completed', retries, attempt, failures, expiries,
           $1, worker_id, coalesce(variables, '{}'), types
    FROM judged WHERE is_held
), told AS (
    SELECT request,
           string_agg(CASE WHEN is_held THEN '{"id":"' || id || '","outcome":"done"}'
                      ELSE json_build_object('id', given_id, 'code', 'refused')::text
                      END, ',' ORDER BY item) AS results,
           count(*) FILTER (WHERE NOT is_held) AS refused
    FROM judged GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused, l.lanes, l.counts
FROM request r
LEFT JOIN told t USING (request)
LEFT JOIN (
    SELECT array_agg(lane_id) AS lanes, array_agg(tasks) AS counts
    FROM (SELECT lane_id, count(*)::integer AS tasks FROM judged WHERE is_held GROUP BY lane_id) c
) l ON r.request = 1
ORDER BY r.request;
