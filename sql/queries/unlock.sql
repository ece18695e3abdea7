-- unlock: put tasks back at once; no retry is used and no expiry counted.
-- $1 shard smallint, $2 requests json[]
-- A request is {"workerId", "tasks": [{"id", "lockToken"?, "whoever"?}, …]}. Returns as fail
-- does. Whose cancellation was requested does not go back, it is cancelled: so a worker says
-- that it has stopped. With `whoever` nobody is asked who holds the task, and one that nobody
-- holds stays what it is: a failed one failed, a delayed one delayed.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS lock_token, coalesce(f.whoever, false) AS whoever,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, whoever boolean)) WITH ORDINALITY
        AS f (id, "workerId", "lockToken", whoever, item)
), judged AS MATERIALIZED (
    SELECT i.*, t.lane_id, t.position, t.cancel_requested, t.cancel_reason, t.locked_at, t.retries,
           t.attempt, t.failures, t.expiries, t.worker_id AS holder, t.lock_token AS held_token,
           -- Or it is what another mention in this batch makes free.
           coalesce(i.whoever AND (t.state <> 'locked'
                                   OR t.is_held AND NOT t.cancel_requested), false) AS is_free,
           coalesce(t.is_held AND row_number() OVER of_holder = 1, false) AS is_held
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.*, NOT t.called_back AND (
                   t.state = 'locked' AND t.worker_id = i.worker_id
                   AND (i.lock_token IS NULL OR t.lock_token::text = i.lock_token)
                   AND t.lock_expires_at > now()
                   -- Nor may who lost the lock end the attempt any more.
                   OR i.whoever AND (t.state = 'locked' OR t.state = 'ready' AND t.lost_by <> '')
               ) AS is_held
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
    WINDOW of_holder AS (PARTITION BY i.id, t.is_held ORDER BY i.request, i.item)
), returned AS (
    UPDATE fetchlock.open_task t
    -- It has no retries left where an operator took them while it was locked.
    SET state = CASE WHEN t.retries = 0 THEN 'failed'::fetchlock.open_state ELSE 'ready' END,
        worker_id = NULL, lock_token = NULL, locked_at = NULL, lock_expires_at = NULL,
        lost_by = NULL, lost_token = NULL
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_held AND NOT cancel_requested))
      AND t.shard = $1
), closed AS (
    DELETE FROM fetchlock.open_task t
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_held AND cancel_requested))
      AND t.shard = $1
), written AS (
    INSERT INTO fetchlock.outcome (
        id, locked_at, lock_token, lane_id, state, retries, attempt, failures, expiries, shard,
        worker_id, error_message)
    SELECT id, locked_at, held_token, lane_id, 'cancelled', retries, attempt, failures, expiries,
           $1, holder, cancel_reason
    FROM judged WHERE is_held AND cancel_requested
), told AS (
    SELECT request,
           string_agg(CASE WHEN is_held OR is_free THEN '{"id":"' || id || '","outcome":"done"}'
                      ELSE json_build_object('id', given_id, 'code', 'refused')::text
                      END, ',' ORDER BY item) AS results,
           count(*) FILTER (WHERE NOT (is_held OR is_free)) AS refused
    FROM judged GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused, w.lanes, w.positions, w.cancelled
FROM request r
LEFT JOIN told t USING (request)
LEFT JOIN (
    SELECT array_agg(lane_id) AS lanes, array_agg(position) AS positions,
           array_agg(cancelled) AS cancelled
    FROM (
        SELECT lane_id,
               min(position) FILTER (WHERE NOT cancel_requested AND retries > 0) AS position,
               count(*) FILTER (WHERE cancel_requested)::integer AS cancelled
        FROM judged WHERE is_held GROUP BY lane_id
    ) c
) w ON r.request = 1
ORDER BY r.request;
