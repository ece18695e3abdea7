-- lock: lock one task by its id, for a worker that knows what it wants.
-- $1 shard smallint, $2 task_id text, $3 worker_id text, $4 lock_duration_ms bigint,
-- $5 max_expiries integer
-- Only what is ready, or what this worker holds already: its lock then ends later, or sooner.
-- A lock that has run out is as good as none, and is counted as release_due would: what that
-- would make an incident is left to it.
-- Returns a row, or none: `refusals` then says why.
-- The row is changed by what is in it, and not by what `target` saw: before PostgreSQL notices
-- that it was changed meanwhile, it checks what would have become of the version before.
WITH target AS MATERIALIZED (
    SELECT t.id FROM fetchlock.open_task t
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
SET state = 'locked', returned = true, worker_id = $3, lost_by = NULL, lost_token = NULL,
    attempt = t.attempt
        + CASE WHEN t.state = 'locked' AND t.lock_expires_at > now() THEN 0 ELSE 1 END,
    expiries = t.expiries
        + CASE WHEN t.lock_expires_at <= now()
                    AND t.lock_expires_at - t.locked_at >= interval '1 second' THEN 1 ELSE 0 END,
    lock_token = CASE WHEN t.state = 'locked' AND t.lock_expires_at > now() THEN t.lock_token
                      ELSE gen_random_uuid() END,
    locked_at = CASE WHEN t.state = 'locked' AND t.lock_expires_at > now() THEN t.locked_at
                     ELSE now() END,
    lock_expires_at = now() + interval '1 millisecond' * $4::bigint,
    deadline_at = least(t.deadline_at, now() + interval '1 millisecond' * t.execution_timeout_ms)
WHERE t.id = ANY (ARRAY(SELECT id FROM target)) AND t.shard = $1
RETURNING t.lane_id, NULL::bigint AS position, $4::bigint::double precision AS due_ms,
    t.locked_at = now() AS is_new,
    json_build_object('lockToken', t.lock_token, 'lockExpiresAt', t.lock_expires_at,
                      'attempt', t.attempt, 'startedAt', t.locked_at)::text AS answer;
