-- callback_url: note that an outside party may call back while the task is still locked.
-- $1 shard smallint, $2 requests json[], $3 default_timeout_ms bigint
-- A request is {"workerId", "tasks": [{"id", "lockToken"?, "timeoutMs"?}, …]}.
-- Returns as complete does. Asked again, the later answer counts.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS given_token,
           now() + interval '1 millisecond' * coalesce(f."timeoutMs", $3) AS expires_at,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, "timeoutMs" bigint)) WITH ORDINALITY
        AS f (id, "workerId", "lockToken", "timeoutMs", item)
), judged AS MATERIALIZED (
    SELECT i.*, t.lock_token, coalesce(t.is_held, false) AS is_held,
           row_number() OVER (PARTITION BY i.id, t.is_held
                              ORDER BY i.request DESC, i.item DESC) = 1 AS is_last
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.lock_token, t.state = 'locked' AND t.worker_id = i.worker_id
               AND (i.given_token IS NULL OR t.lock_token::text = i.given_token)
               AND t.lock_expires_at > now() AS is_held
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
), noted AS (
    INSERT INTO fetchlock.callback (id, lock_token, shard, expires_at)
    SELECT id, lock_token, $1, expires_at FROM judged WHERE is_held AND is_last
    ON CONFLICT (id, lock_token, shard) DO UPDATE SET expires_at = excluded.expires_at
), told AS (
    SELECT request,
           string_agg(CASE WHEN is_held THEN json_build_object(
                   'id', id, 'outcome', 'done', 'state', 'LOCKED', 'lockToken', lock_token,
                   'expiresAt', expires_at,
                   'expiresMs', floor(extract(epoch FROM expires_at) * 1000)::bigint)::text
               ELSE json_build_object('id', given_id, 'code', 'refused')::text
               END, ',' ORDER BY item) AS results,
           count(*) FILTER (WHERE NOT is_held) AS refused
    FROM judged GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused
FROM request r
LEFT JOIN told t USING (request)
ORDER BY r.request;
