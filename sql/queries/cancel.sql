-- cancel: end an unfinished task for good, whatever it is doing.
-- $1 shard smallint, $2 task_id text, $3 reason text
-- Returns a row, or none: `refusals` then says whether it is finished or unknown.
-- A worker that holds the task learns of it when it next names its lock.
WITH target AS MATERIALIZED (
    SELECT t.* FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
    FOR UPDATE
), closed AS (
    DELETE FROM fetchlock.open_task t
    WHERE t.id = ANY (ARRAY(SELECT id FROM target)) AND t.shard = $1
)
INSERT INTO fetchlock.outcome (
    id, locked_at, lock_token, lane_id, state, retries, attempt, failures, expiries, shard,
    worker_id, error_message)
SELECT id, locked_at, lock_token, lane_id, 'cancelled', retries, attempt, failures, expiries, $1,
       worker_id, $3
FROM target
RETURNING lane_id, '{"state":"CANCELLED"}' AS answer;
