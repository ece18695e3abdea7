-- callback: record what outside parties say of tasks that were, or will be, handed over.
-- $1 shard smallint, $2 requests json[]
-- A request is {"tasks": [{"id", "lockToken"?, "expiresMs"?, "isSuccess", "output"?, "errorCode"?,
-- "errorMessage"?, "logs"?, "subtext"?}, …]}. Without a lock token the current one is meant.
-- Returns as complete does (`callback_refusals` says why not), and the ids of the tasks that
-- `settle_due` can end now: those that were handed over. Of several callbacks the first
-- counts; they meet at the task's row lock.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body -> 'tasks' AS tasks
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, f."lockToken" AS given_token,
           to_timestamp(f."expiresMs" / 1000.0) AS given_expiry, f."isSuccess" AS is_success,
           coalesce(f.output, '{}') AS output, f."errorCode" AS error_code,
           f."errorMessage" AS error_message, f.subtext,
           ARRAY(SELECT json_array_elements_text(f.logs)) AS lines,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "lockToken" text, "expiresMs" bigint, "isSuccess" boolean, output json,
        "errorCode" text, "errorMessage" text, logs json, subtext text)) WITH ORDINALITY
        AS f (id, "lockToken", "expiresMs", "isSuccess", output, "errorCode", "errorMessage",
              logs, subtext, item)
), judged AS MATERIALIZED (
    SELECT i.*, t.lock_token, t.state, t.lane_id,
           coalesce(t.is_wanted AND (t.state = 'awaiting' OR c.id IS NOT NULL)
                    AND row_number() OVER of_task = 1, false) AS is_first
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.*, NOT t.called_back AND t.state IN ('locked', 'awaiting')
                    AND t.lock_expires_at > now()
                    AND (i.given_token IS NULL OR t.lock_token::text = i.given_token)
                    AND coalesce(i.given_expiry > now(), true) AS is_wanted
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
    -- Of a task that is still locked: whether its worker has asked for a callback.
    LEFT JOIN LATERAL (
        SELECT c.id FROM fetchlock.callback c
        WHERE c.id = t.id AND c.lock_token = t.lock_token AND c.shard = $1 LIMIT 1
    ) c ON true
    WINDOW of_task AS (PARTITION BY i.id, t.is_wanted ORDER BY i.request, i.item)
), recorded AS (
    INSERT INTO fetchlock.callback (id, lock_token, shard, expires_at, received_at, is_success,
                                    output, error_code, error_message)
    SELECT id, lock_token, $1, now(), now(), is_success, output, error_code, error_message
    FROM judged WHERE is_first
    ON CONFLICT (id, lock_token, shard) DO UPDATE
        SET received_at = now(), is_success = excluded.is_success, output = excluded.output,
            error_code = excluded.error_code, error_message = excluded.error_message
), spoken AS (
    -- Its lines are bounded with the request and come once an attempt, so nobody counts them.
    INSERT INTO fetchlock.progress AS p (id, shard, subtext, updated_at, log_lines)
    SELECT id, $1, subtext, CASE WHEN subtext IS NOT NULL THEN now() END,
           cardinality(lines)
    FROM judged WHERE is_first AND (subtext IS NOT NULL OR cardinality(lines) > 0)
    ON CONFLICT (id, shard) DO UPDATE
        SET subtext = coalesce(excluded.subtext, p.subtext),
            updated_at = coalesce(excluded.updated_at, p.updated_at),
            log_lines = p.log_lines + excluded.log_lines
    RETURNING p.id, p.log_lines
), numbered AS MATERIALIZED (
    SELECT coalesce(jsonb_object_agg(id, log_lines), '{}') AS by_id FROM spoken
), logged AS (
    INSERT INTO fetchlock.log_line (id, shard, number, line)
    SELECT j.id, $1, (n.by_id ->> j.id::text)::integer - cardinality(j.lines) + l.place, l.line
    FROM numbered n
    CROSS JOIN judged j
    CROSS JOIN LATERAL unnest(j.lines) WITH ORDINALITY AS l (line, place)
    WHERE j.is_first
), flagged AS (
    UPDATE fetchlock.open_task t
    SET called_back = true, reported = t.reported OR n.by_id ? t.id::text,
        -- What was handed over is due now, also where the broker dies before it settles it.
        lock_expires_at = CASE t.state WHEN 'awaiting' THEN now() ELSE t.lock_expires_at END
    FROM numbered n
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_first)) AND t.shard = $1
), told AS (
    SELECT request,
           string_agg(CASE WHEN is_first
                      THEN json_build_object('id', id, 'outcome', 'done',
                                             'state', upper(state::text))::text
                      ELSE json_build_object('id', given_id, 'code', 'refused')::text
                      END, ',' ORDER BY item) AS results,
           count(*) FILTER (WHERE NOT is_first) AS refused
    FROM judged GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused,
       ARRAY(SELECT id FROM judged WHERE is_first AND state = 'awaiting') AS to_settle
FROM request r
LEFT JOIN told t USING (request)
ORDER BY r.request;
