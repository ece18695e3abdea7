-- retries: say how many failures a task may still have; a failed one is redriven.
-- $1 shard smallint, $2 task_id text, $3 retries integer
-- Returns a row, or none: `refusals` then says whether it is finished or unknown.
-- A redriven task starts with no expiries and no total timeout, and its execution timeout
-- with the next lock: it was a person who sent it again.
WITH target AS MATERIALIZED (
    SELECT t.id, t.state FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
    FOR UPDATE
)
UPDATE fetchlock.open_task t
SET retries = $3,
    state = CASE t.state WHEN 'failed' THEN 'ready' ELSE t.state END,
    expiries = CASE t.state WHEN 'failed' THEN 0 ELSE t.expiries END,
    available_at = CASE t.state WHEN 'failed' THEN now() ELSE t.available_at END,
    total_expires_at = CASE t.state WHEN 'failed' THEN NULL ELSE t.total_expires_at END,
    deadline_at = CASE t.state WHEN 'failed' THEN NULL ELSE t.deadline_at END
WHERE t.id = ANY (ARRAY(SELECT id FROM target)) AND t.shard = $1
RETURNING t.lane_id, CASE t.state WHEN 'ready' THEN t.position END AS position,
    NULL::double precision AS due_ms,
    json_build_object(
        'state', CASE WHEN t.state IN ('delayed', 'ready') THEN 'CREATED'
                      ELSE upper(t.state::text) END,
        'retries', t.retries, 'availableAt', t.available_at)::text AS answer;
