-- settle_due: end, or send back, what has run out otherwise than by an expired lock.
-- $1 shard smallint, $2 ids uuid[], $3 look_back_ms double precision, $4 tasks_max bigint,
-- $5 retry_base_ms double precision, $6 retry_factor double precision,
-- $7 retry_cap_ms double precision
-- With $2 it looks at these tasks alone, else at all deadlines since $3 (see release_due).
-- In the order in which one reason beats another:
--   a recorded callback of success      completes the task, its output over the task's own result
--   a requested cancellation            cancels it, now that its lock has run out
--   an execution or total timeout       makes it an incident
--   a recorded callback of failure      is a failure like a worker's
--   a hand-over nobody called back for  is one, too
-- Returns a row per task.
WITH floor AS MATERIALIZED (
    SELECT coalesce(now() - interval '1 millisecond' * $3, '-infinity') AS instant
), given AS MATERIALIZED (
    SELECT t.id FROM fetchlock.open_task t
    WHERE t.id = ANY ($2::uuid[]) AND t.shard = $1
      AND t.state IN ('locked', 'awaiting') AND t.lock_expires_at <= now()
      AND (t.called_back OR t.cancel_requested OR t.state = 'awaiting')
    ORDER BY t.id
    FOR UPDATE
), let_go AS MATERIALIZED (
    SELECT t.id FROM fetchlock.open_task t
    WHERE t.state = 'locked' AND t.lock_expires_at <= now()
      AND t.lock_expires_at > (SELECT instant FROM floor)
      AND (t.cancel_requested OR t.called_back) AND t.shard = $1 AND $2::uuid[] IS NULL
    ORDER BY t.lock_expires_at LIMIT $4
    FOR UPDATE SKIP LOCKED
), unanswered AS MATERIALIZED (
    SELECT t.id FROM fetchlock.open_task t
    WHERE t.state = 'awaiting' AND t.lock_expires_at <= now()
      AND t.lock_expires_at > (SELECT instant FROM floor) AND t.shard = $1
      AND $2::uuid[] IS NULL
    ORDER BY t.lock_expires_at LIMIT $4
    FOR UPDATE SKIP LOCKED
), overdue AS MATERIALIZED (
    SELECT t.id FROM fetchlock.open_task t
    WHERE t.deadline_at <= now() AND t.deadline_at > (SELECT instant FROM floor)
      AND t.state <> 'failed' AND t.shard = $1 AND $2::uuid[] IS NULL
    ORDER BY t.deadline_at LIMIT $4
    FOR UPDATE SKIP LOCKED
), due AS MATERIALIZED (
    SELECT DISTINCT id FROM (
        SELECT id FROM given UNION ALL SELECT id FROM let_go
        UNION ALL SELECT id FROM unanswered UNION ALL SELECT id FROM overdue
    ) d
), judged AS MATERIALIZED (
    -- Locked once more, for what the lock was waited for may have changed since the snapshot.
    -- What this snapshot does not see yet of its callback or hand-over was recorded just now:
    -- whoever did so is about to settle it, and if not, the next sweep is.
    SELECT t.*, c.worker_id AS handed_over_by, c.own_result, c.output, c.is_success,
           c.error_code AS callback_error_code, c.error_message AS callback_error_message,
           CASE WHEN t.called_back AND c.is_success THEN 'completed'
                WHEN t.cancel_requested THEN 'cancelled'
                WHEN t.deadline_at <= now() THEN 'overdue'
                ELSE 'failure' END AS verdict,
           t.deadline_at IS NOT DISTINCT FROM t.total_expires_at AS is_total
    FROM due d
    CROSS JOIN LATERAL (
        SELECT * FROM fetchlock.open_task t WHERE t.id = d.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t
    LEFT JOIN LATERAL (
        SELECT * FROM fetchlock.callback c
        WHERE c.id = t.id AND c.lock_token = t.lock_token AND c.shard = $1 LIMIT 1) c ON true
    WHERE (NOT t.called_back OR c.received_at IS NOT NULL)
      AND (t.state <> 'awaiting' OR c.own_result IS NOT NULL)
), next AS MATERIALIZED (
    SELECT j.id, CASE j.verdict WHEN 'overdue' THEN j.retries
                                ELSE greatest(j.retries - 1, 0) END AS retries,
           j.failures + (j.verdict = 'failure')::integer AS failures,
           CASE j.verdict WHEN 'overdue' THEN j.available_at
                          ELSE now() + fetchlock.retry_wait(j.failures, $5, $6, $7)
                          END AS available_at,
           CASE WHEN j.verdict = 'overdue' AND j.is_total THEN 'total_timeout'
                WHEN j.verdict = 'overdue' THEN 'execution_timeout'
                WHEN j.called_back THEN j.callback_error_code
                ELSE 'callback_timeout' END AS error_code,
           CASE WHEN j.verdict = 'overdue' AND j.is_total
                    THEN 'the task was not finished within its total timeout'
                WHEN j.verdict = 'overdue'
                    THEN 'the task was not finished within its execution timeout'
                WHEN j.called_back THEN j.callback_error_message
                ELSE 'nobody called back in time' END AS error_message,
           j.verdict = 'overdue' OR j.retries <= 1 AS is_incident
    FROM judged j WHERE j.verdict IN ('overdue', 'failure')
), asked AS MATERIALIZED (
    -- A map instead of a join: see fetch_and_lock.
    SELECT jsonb_object_agg(id, jsonb_build_array(
        CASE WHEN is_incident THEN 'failed' WHEN available_at > now() THEN 'delayed'
             ELSE 'ready' END,
        retries, available_at, error_code, error_message, failures)) AS by_id
    FROM next
), moved AS (
    UPDATE fetchlock.open_task t
    SET state = (asked.by_id -> t.id::text ->> 0)::fetchlock.open_state,
        retries = (asked.by_id -> t.id::text ->> 1)::integer,
        available_at = (asked.by_id -> t.id::text ->> 2)::timestamptz,
        error_code = asked.by_id -> t.id::text ->> 3,
        error_message = asked.by_id -> t.id::text ->> 4, error_details = NULL,
        failures = (asked.by_id -> t.id::text ->> 5)::integer, called_back = false,
        -- Also one that was never delivered: fetches have gone past it by now.
        returned = true,
        worker_id = NULL, lock_token = NULL, locked_at = NULL, lock_expires_at = NULL
    FROM asked
    WHERE t.id = ANY (ARRAY(SELECT id FROM next)) AND t.shard = $1
    RETURNING t.id, t.lane_id, t.position, t.state::text, t.retries, t.available_at
), closed AS (
    DELETE FROM fetchlock.open_task t
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE verdict IN ('completed', 'cancelled')))
      AND t.shard = $1
), written AS (
    INSERT INTO fetchlock.outcome (
        id, locked_at, lock_token, lane_id, state, retries, attempt, failures, expiries, shard,
        worker_id, result, error_message)
    SELECT id, locked_at, lock_token, lane_id, verdict::fetchlock.outcome_state, retries, attempt,
           failures, expiries, $1, coalesce(worker_id, handed_over_by),
           CASE verdict WHEN 'completed' THEN fetchlock.merged(own_result, output) END,
           CASE verdict WHEN 'cancelled' THEN cancel_reason END
    FROM judged WHERE verdict IN ('completed', 'cancelled')
)
SELECT id, lane_id, state, retries, available_at,
       CASE state WHEN 'ready' THEN position END AS position,
       CASE state WHEN 'delayed' THEN
           (extract(epoch FROM available_at - now()) * 1000)::double precision END AS due_ms
FROM moved
UNION ALL
SELECT id, lane_id, verdict, retries, NULL, NULL, NULL
FROM judged WHERE verdict IN ('completed', 'cancelled');
