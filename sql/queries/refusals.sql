-- refusals: why tasks were not the worker's to touch, or that it had done so before.
-- $1 shard smallint, $2 requests json[], $3 finished_state text
-- A statement of its own, after the refusing one: what a concurrent batch has
-- just committed is not in the snapshot of the statement that waited for it.
-- $3 is the outcome the refused verb wanted (null: it wanted none): the same
-- outcome, from the same lock, with the same content, is a replay and succeeds.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS lock_token, f."errorCode" AS error_code,
           f."errorMessage" AS error_message, f.variables,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, "errorCode" text, "errorMessage" text,
        variables json)) WITH ORDINALITY
        AS f (id, "workerId", "lockToken", "errorCode", "errorMessage", variables, item)
)
SELECT i.request::integer, i.item::integer, (CASE
    WHEN o.state = 'locked' THEN json_build_object(
        'id', i.given_id, 'code', 'lock_lost', 'state', 'LOCKED',
        'detail', CASE WHEN o.lock_expires_at <= now() THEN 'the lock has expired'
                       WHEN o.called_back AND o.worker_id = i.worker_id
                           THEN 'its callback has come: it can only be handed over'
                       ELSE 'the task is locked under another lock' END,
        'holder', o.worker_id, 'lockExpiresAt', o.lock_expires_at)
    WHEN o.state IS NOT NULL THEN json_build_object(
        'id', i.given_id, 'code', 'lock_lost', 'detail', 'the task is not locked',
        'state', CASE WHEN o.state IN ('delayed', 'ready') THEN 'CREATED'
                      ELSE upper(o.state::text) END)
    WHEN f.is_replay THEN json_build_object('id', i.given_id, 'outcome', 'done', 'replayed', true)
    WHEN f.state IS NOT NULL THEN json_build_object(
        'id', i.given_id, 'code', 'lock_lost', 'detail', 'the task is finished',
        'state', upper(f.state::text))
    ELSE json_build_object('id', i.given_id, 'code', 'task_not_found',
                           'detail', 'no task has this id')
END)::text AS result
FROM item i
LEFT JOIN LATERAL (
    SELECT t.state, t.worker_id, t.lock_expires_at, t.called_back
    FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
) o ON true
LEFT JOIN LATERAL (
    SELECT t.state, t.state::text = $3 AND t.worker_id = i.worker_id
           AND (i.lock_token IS NULL OR t.lock_token::text = i.lock_token)
           AND t.result::text = coalesce(i.variables::text, '{}')
           AND t.error_code IS NOT DISTINCT FROM i.error_code
           AND t.error_message IS NOT DISTINCT FROM i.error_message AS is_replay
    FROM fetchlock.outcome t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
) f ON true
ORDER BY i.request, i.item;
