-- retry_timeout: move the instant at which a waiting task becomes available.
-- $1 shard smallint, $2 task_id text, $3 retry_timeout_ms bigint
-- Returns a row, or none where the task does not wait: `refusals` then says why.
WITH target AS MATERIALIZED (
    SELECT t.id, t.state FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
    FOR UPDATE
)
UPDATE fetchlock.open_task t
SET available_at = now() + interval '1 millisecond' * $3::bigint,
    -- The version before may be of a task that somebody held: it is checked all the same.
    state = CASE WHEN t.state = 'delayed' AND $3::bigint = 0 THEN 'ready' ELSE t.state END
WHERE t.id = ANY (ARRAY(SELECT id FROM target WHERE state = 'delayed')) AND t.shard = $1
RETURNING t.lane_id, CASE t.state WHEN 'ready' THEN t.position END AS position,
    CASE t.state WHEN 'delayed' THEN $3::bigint::double precision END AS due_ms,
    json_build_object('availableAt', t.available_at)::text AS answer;
