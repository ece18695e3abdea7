-- callback_refusals: why callbacks were not taken, or that they had been before.
-- $1 shard smallint, $2 requests json[]
-- A statement of its own, after the refusing one: see refusals. The same content for
-- the same attempt is a replay and succeeds.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, f."lockToken" AS given_token,
           f."isSuccess" AS is_success, coalesce(f.output, '{}')::text AS output,
           f."errorCode" AS error_code, f."errorMessage" AS error_message,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "lockToken" text, "isSuccess" boolean, output json, "errorCode" text,
        "errorMessage" text)) WITH ORDINALITY
        AS f (id, "lockToken", "isSuccess", output, "errorCode", "errorMessage", item)
)
SELECT i.request::integer, i.item::integer, (CASE
    WHEN s.state IS NULL THEN json_build_object(
        'id', i.given_id, 'code', 'task_not_found', 'detail', 'no task has this id')
    -- Without a token a callback is for the attempt under way, and not the repetition of one
    -- that came for the attempt before it.
    WHEN c.is_replay AND (i.given_token IS NOT NULL OR o.lock_token IS NULL
                          OR o.lock_token = c.lock_token) THEN json_build_object(
        'id', i.given_id, 'outcome', 'done', 'replayed', true, 'state', s.state,
        'retries', s.retries, 'availableAt', s.available_at)
    WHEN c.received_at IS NOT NULL AND (i.given_token IS NOT NULL OR o.lock_token IS NULL
                                        OR o.lock_token = c.lock_token) THEN json_build_object(
        'id', i.given_id, 'code', 'conflict', 'state', s.state,
        'detail', 'another callback was first')
    WHEN i.given_token IS NULL THEN json_build_object(
        'id', i.given_id, 'code', 'conflict', 'state', s.state,
        'detail', 'the task waits for no callback')
    ELSE json_build_object(
        'id', i.given_id, 'code', 'callback_expired', 'state', s.state,
        'detail', 'the time for this callback, or its attempt, is over')
END)::text AS result
FROM item i
LEFT JOIN LATERAL (
    SELECT CASE WHEN t.state IN ('delayed', 'ready') THEN 'CREATED'
                ELSE upper(t.state::text) END AS state,
           t.retries, t.available_at, t.lock_token
    FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
) o ON true
LEFT JOIN LATERAL (
    SELECT upper(f.state::text) AS state, f.retries, f.lock_token
    FROM fetchlock.outcome f WHERE f.id = i.id AND f.shard = $1 LIMIT 1
) f ON true
LEFT JOIN LATERAL (
    SELECT coalesce(o.state, f.state) AS state, coalesce(o.retries, f.retries) AS retries,
           o.available_at
) s ON true
LEFT JOIN LATERAL (
    SELECT c.lock_token, c.received_at, c.is_success = i.is_success AND c.output::text = i.output
           AND c.error_code IS NOT DISTINCT FROM i.error_code
           AND c.error_message IS NOT DISTINCT FROM i.error_message AS is_replay
    FROM fetchlock.callback c
    WHERE c.id = i.id AND c.shard = $1 AND c.received_at IS NOT NULL
      AND (i.given_token IS NULL OR c.lock_token::text = i.given_token)
    ORDER BY c.received_at DESC LIMIT 1
) c ON true
ORDER BY i.request, i.item;
