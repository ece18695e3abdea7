-- lock: lock one task by its id, for a worker that knows what it wants.
-- $1 shard smallint, $2 task_id text, $3 worker_id text, $4 lock_duration_ms bigint,
-- $5 max_expiries integer
-- Only what is ready, or what this worker holds already: its lock then ends later, or sooner.
-- A lock that has run out is as good as none, and is counted as release_due would: what that
-- would make an incident is left to it.
-- Returns a row, or none: `refusals` then says why.
WITH target AS MATERIALIZED (
    SELECT t.id, t.state = 'locked' AND t.lock_expires_at > now() AS is_held,
           CASE WHEN t.lock_expires_at <= now()
                     AND t.lock_expires_at - t.locked_at >= interval '1 second' THEN 1 ELSE 0
           END AS expiries
    FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1
      AND (t.state = 'ready'
           OR t.state = 'locked' AND NOT t.called_back AND CASE
               WHEN t.lock_expires_at > now() THEN t.worker_id = $3
               ELSE NOT t.cancel_requested AND t.retries > 0
                    AND (t.expiries + 1 < $5
                         OR t.lock_expires_at - t.locked_at < interval '1 second')
           END)
    LIMIT 1
    FOR UPDATE
)
UPDATE fetchlock.open_task t
SET state = 'locked', returned = true, worker_id = $3,
    attempt = t.attempt + CASE WHEN g.is_held THEN 0 ELSE 1 END,
    expiries = t.expiries + g.expiries,
    lock_token = CASE WHEN g.is_held THEN t.lock_token ELSE gen_random_uuid() END,
    locked_at = CASE WHEN g.is_held THEN t.locked_at ELSE now() END,
    lock_expires_at = now() + interval '1 millisecond' * $4::bigint,
    lost_by = NULL, lost_token = NULL,
    deadline_at = least(t.deadline_at, now() + interval '1 millisecond' * t.execution_timeout_ms)
FROM (
    -- A look-up that cannot become a join with the table: see sql/README.md.
    SELECT bool_or(is_held) AS is_held, max(expiries) AS expiries FROM target
) g
WHERE t.id = ANY (ARRAY(SELECT id FROM target)) AND t.shard = $1
RETURNING t.lane_id, NULL::bigint AS position, $4::bigint::double precision AS due_ms,
    json_build_object('lockToken', t.lock_token, 'lockExpiresAt', t.lock_expires_at)::text AS answer;
