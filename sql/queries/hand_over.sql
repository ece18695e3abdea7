-- hand_over: let go of tasks that an outside party will finish by a callback.
-- $1 shard smallint, $2 requests json[], $3 default_timeout_ms bigint
-- A request is {"workerId", "tasks": [{"id", "lockToken"?, "timeoutMs"?, "variables"?}, …]}.
-- Returns as complete does, and the ids of the tasks that have something recorded (their
-- callback, or the wish to cancel them): `settle_due` comes next for those.
-- Said again under the same lock token it is answered as the first time, in one batch too.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS given_token, f."timeoutMs" AS timeout_ms, f.variables,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, "timeoutMs" bigint, variables json))
        WITH ORDINALITY AS f (id, "workerId", "lockToken", "timeoutMs", variables, item)
), judged AS MATERIALIZED (
    SELECT i.*, coalesce(t.lock_token, f.lock_token) AS lock_token,
           coalesce(t.called_back OR t.cancel_requested, false) AS is_settled,
           coalesce(t.is_held AND row_number() OVER of_holder = 1, false) AS is_held,
           -- The callback's row of a hand-over that this waited for cannot be seen yet.
           coalesce(t.is_awaiting AND coalesce(c.worker_id, i.worker_id) = i.worker_id
                    OR t.is_held AND i.given_token IS NOT NULL AND row_number() OVER of_holder > 1,
                    f.state IS NOT NULL, false) AS is_replay,
           coalesce(upper(f.state::text), 'AWAITING') AS state,
           coalesce(CASE WHEN t.is_held THEN now() + interval '1 millisecond'
                                             * first_value(i.timeout_ms) OVER of_holder END,
                    -- Unless something made it due, the task has it too, and is always the latest.
                    CASE WHEN t.is_awaiting AND t.lock_expires_at > now()
                         THEN t.lock_expires_at END,
                    -- What was asked for before counts, unless its time is over already.
                    CASE WHEN c.expires_at > now() OR t.is_held IS NOT TRUE THEN c.expires_at END,
                    now() + interval '1 millisecond' * $3::bigint) AS expires_at
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.*, t.state = 'locked' AND t.worker_id = i.worker_id
                    AND (i.given_token IS NULL OR t.lock_token::text = i.given_token)
                    AND t.lock_expires_at > now() AS is_held,
               t.state = 'awaiting' AND t.lock_token::text = i.given_token AS is_awaiting
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
    LEFT JOIN LATERAL (
        SELECT f.state, f.lock_token FROM fetchlock.outcome f
        WHERE f.id = i.id AND f.shard = $1 AND f.lock_token::text = i.given_token LIMIT 1
    ) f ON t.id IS NULL
    LEFT JOIN LATERAL (
        SELECT c.expires_at, c.worker_id FROM fetchlock.callback c
        WHERE c.id = i.id AND c.lock_token = coalesce(t.lock_token, f.lock_token)
          AND c.shard = $1 LIMIT 1
    ) c ON true
    -- What its worker completed was never handed over, whatever it asked for before.
    WHERE f.state IS NULL OR c.worker_id = i.worker_id
    WINDOW of_holder AS (PARTITION BY i.id, t.is_held ORDER BY i.request, i.item)
), noted AS (
    INSERT INTO fetchlock.callback (id, lock_token, shard, expires_at, worker_id, own_result)
    SELECT id, lock_token, $1, expires_at, worker_id, coalesce(variables, '{}')
    FROM judged WHERE is_held
    ON CONFLICT (id, lock_token, shard) DO UPDATE
        SET expires_at = excluded.expires_at, worker_id = excluded.worker_id,
            own_result = excluded.own_result
), asked AS MATERIALIZED (
    -- A map instead of a join: see fetch_and_lock.
    SELECT jsonb_object_agg(id, expires_at) AS by_id FROM judged WHERE is_held
), handed AS (
    UPDATE fetchlock.open_task t
    -- The version before may be of a task that nobody held: it is checked all the same.
    SET state = CASE WHEN t.state = 'locked' THEN 'awaiting' ELSE t.state END, worker_id = NULL,
        -- What is recorded is due now, also where the broker dies before it settles it.
        lock_expires_at = CASE WHEN t.state <> 'locked' THEN t.lock_expires_at
                               WHEN t.called_back OR t.cancel_requested THEN now()
                               ELSE (asked.by_id ->> t.id::text)::timestamptz END
    FROM asked
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_held)) AND t.shard = $1
), told AS (
    SELECT i.request,
           string_agg(CASE WHEN j.is_held OR j.is_replay THEN json_build_object(
                   'id', j.id, 'outcome', 'done', 'state', j.state, 'lockToken', j.lock_token,
                   'expiresAt', j.expires_at,
                   'expiresMs', floor(extract(epoch FROM j.expires_at) * 1000)::bigint)::text
               ELSE json_build_object('id', i.given_id, 'code', 'refused')::text
               END, ',' ORDER BY i.item) AS results,
           count(*) FILTER (WHERE j.is_held IS NOT TRUE AND j.is_replay IS NOT TRUE) AS refused
    FROM item i LEFT JOIN judged j USING (request, item) GROUP BY i.request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused,
       ARRAY(SELECT id FROM judged WHERE is_held AND is_settled) AS to_settle,
       (SELECT (extract(epoch FROM min(expires_at) - now()) * 1000)::double precision
        FROM judged WHERE is_held) AS due_ms
FROM request r
LEFT JOIN told t USING (request)
ORDER BY r.request;
