-- cancel: end an unfinished task for good, or ask its worker to let go of it.
-- $1 shard smallint, $2 task_id text, $3 reason text
-- Returns a row, or none: `refusals` then says whether it is finished or unknown.
-- A worker that holds the task is told with its next heartbeat, and has until the end
-- of its lock to clean up. What has its callback recorded (is_recorded) is left alone:
-- `settle_due` comes first.
WITH target AS MATERIALIZED (
    SELECT t.*, h.is_held, t.called_back AND NOT h.is_held AS is_recorded
    FROM fetchlock.open_task t
    CROSS JOIN LATERAL (
        SELECT t.state = 'locked' AND t.lock_expires_at > now() AS is_held) h
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
    FOR UPDATE OF t
), asked AS (
    UPDATE fetchlock.open_task t
    SET cancel_requested = true, cancel_reason = coalesce($3, t.cancel_reason)
    WHERE t.id = ANY (ARRAY(SELECT id FROM target WHERE is_held)) AND t.shard = $1
), closed AS (
    DELETE FROM fetchlock.open_task t
    WHERE t.id = ANY (ARRAY(SELECT id FROM target WHERE NOT is_held AND NOT is_recorded))
      AND t.shard = $1
), written AS (
    INSERT INTO fetchlock.outcome (
        id, locked_at, lock_token, lane_id, state, retries, attempt, failures, expiries, shard,
        worker_id, error_message)
    SELECT id, locked_at, lock_token, lane_id, 'cancelled', retries, attempt, failures, expiries,
           $1, worker_id, coalesce($3, cancel_reason)
    FROM target WHERE NOT is_held AND NOT is_recorded
)
SELECT lane_id, NOT is_held AS is_cancelled, is_recorded,
       CASE WHEN is_held THEN '{"state":"LOCKED","cancelRequested":true}'
            ELSE '{"state":"CANCELLED"}' END AS answer
FROM target;
