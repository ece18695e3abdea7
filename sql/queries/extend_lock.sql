-- extend_lock: let locks end later (or sooner), counted from now.
-- $1 shard smallint, $2 requests json[]
-- A request is {"workerId", "lockDurationMs"?, "tasks": [{"id", "lockToken"?,
-- "lockDurationMs"?}, …]}. Returns as complete does, and in how many
-- milliseconds the first of these locks ends.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks,
           (r.body ->> 'lockDurationMs')::bigint AS lock_duration_ms
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, coalesce(f."workerId", r.worker_id) AS worker_id,
           f."lockToken" AS lock_token,
           now() + interval '1 millisecond' * coalesce(f."lockDurationMs", r.lock_duration_ms)
               AS lock_expires_at,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "workerId" text, "lockToken" text, "lockDurationMs" bigint)) WITH ORDINALITY
        AS f (id, "workerId", "lockToken", "lockDurationMs", item)
), judged AS MATERIALIZED (
    -- A lock that is named twice is extended twice: two heartbeats that meet in a
    -- batch are both from its holder.
    SELECT i.*, coalesce(t.is_held, false) AS is_held
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.state = 'locked' AND t.worker_id = i.worker_id
               AND (i.lock_token IS NULL OR t.lock_token::text = i.lock_token)
               AND t.lock_expires_at > now() AS is_held
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
), asked AS MATERIALIZED (
    -- A map instead of a join: see fetch_and_lock. Of equal keys it keeps the last.
    SELECT jsonb_object_agg(id, lock_expires_at ORDER BY request, item) AS by_id
    FROM judged WHERE is_held
), extended AS (
    UPDATE fetchlock.open_task t
    -- The version before may be of a task that nobody held: it is checked all the same.
    SET lock_expires_at = CASE WHEN t.state = 'locked'
                               THEN (asked.by_id ->> t.id::text)::timestamptz
                               ELSE t.lock_expires_at END
    FROM asked
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_held)) AND t.shard = $1
), told AS (
    SELECT request,
           string_agg(CASE WHEN is_held THEN json_build_object(
                   'id', id, 'outcome', 'done', 'lockExpiresAt', lock_expires_at)::text
               ELSE json_build_object('id', given_id, 'code', 'refused')::text
               END, ',' ORDER BY item) AS results,
           count(*) FILTER (WHERE NOT is_held) AS refused
    FROM judged GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused,
       (SELECT (extract(epoch FROM min(lock_expires_at) - now()) * 1000)::double precision
        FROM judged WHERE is_held) AS due_ms
FROM request r
LEFT JOIN told t USING (request)
ORDER BY r.request;
