-- heartbeat: renew the locks of whole workers, and take the news of their tasks.
-- $1 shard smallint, $2 requests json[], $3 checkpoint_bytes_max integer,
-- $4 log_lines_max integer, $5 log_lines_per_minute_max integer
-- A request is {"workerId", "lockDurationMs", "tasks": [{"id", "lockToken", "sequence"?,
-- "percent"?, "subtext"?, "logs"? (a line or several), "checkpoint"?}, …]}. News that are numbered
-- are taken once and in order, so a heartbeat may be repeated. News that break a limit are
-- refused by themselves: the lock is renewed all the same.
-- Returns as extend_lock does, and whether the worker is to drain.
WITH request AS MATERIALIZED (
    SELECT r.request, r.body ->> 'workerId' AS worker_id, r.body -> 'tasks' AS tasks,
           now() + interval '1 millisecond' * (r.body ->> 'lockDurationMs')::bigint
               AS lock_expires_at
    FROM unnest($2::json[]) WITH ORDINALITY AS r (body, request)
), item AS MATERIALIZED (
    SELECT r.request, f.item, f.id AS given_id, r.worker_id, f."lockToken" AS given_token,
           r.lock_expires_at AS asked_expiry, f.sequence, f.subtext, f.checkpoint,
           fetchlock.as_percent(f.percent) AS percent,
           CASE json_typeof(f.logs) WHEN 'string' THEN ARRAY[f.logs #>> '{}']
                ELSE ARRAY(SELECT json_array_elements_text(f.logs)) END AS lines,
           coalesce(f.percent::text, f.subtext, f.logs::text, f.checkpoint::text) IS NOT NULL
               AS has_news,
           fetchlock.as_id(f.id) AS id
    FROM request r
    CROSS JOIN LATERAL ROWS FROM (json_to_recordset(r.tasks) AS (
        id text, "lockToken" text, sequence bigint, percent json, subtext text,
        logs json, checkpoint json)) WITH ORDINALITY
        AS f (id, "lockToken", sequence, percent, subtext, logs, checkpoint, item)
), judged AS MATERIALIZED (
    -- The progress is locked after its task, so that what is read of it is the latest; only a
    -- row that was inserted while this waited for the task cannot be seen (is_unseen).
    SELECT i.*, t.lock_token, t.cancel_requested, t.reported,
           coalesce(t.is_held, false) AS is_held,
           CASE WHEN t.cancel_requested THEN t.lock_expires_at ELSE i.asked_expiry END
               AS lock_expires_at,
           t.reported AND p.id IS NULL AS is_unseen,
           coalesce(p.lock_token = t.lock_token AND p.sequence >= i.sequence, false) AS is_old,
           row_number() OVER (
               PARTITION BY i.id, t.is_held, i.has_news,
                            coalesce(p.lock_token = t.lock_token AND p.sequence >= i.sequence, false)
               ORDER BY i.request, i.item) > 1 AS is_second,
           coalesce(p.log_lines, 0) AS log_lines,
           CASE WHEN p.minute_at > now() - interval '1 minute' THEN p.minute_at ELSE now() END
               AS minute_at,
           CASE WHEN p.minute_at > now() - interval '1 minute' THEN p.minute_lines ELSE 0 END
               AS minute_lines
    FROM (SELECT * FROM item ORDER BY id) i
    LEFT JOIN LATERAL (
        SELECT t.*, t.state = 'locked' AND t.worker_id = i.worker_id
                    AND t.lock_token::text = i.given_token
                    AND t.lock_expires_at > now() AS is_held
        FROM fetchlock.open_task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t ON true
    LEFT JOIN LATERAL (
        SELECT p.* FROM fetchlock.progress p
        WHERE p.id = CASE WHEN t.is_held AND t.reported AND i.has_news THEN i.id END
          AND p.shard = $1 LIMIT 1
        FOR UPDATE
    ) p ON true
), weighed AS MATERIALIZED (
    SELECT *, is_held AND has_news AND NOT is_old AND NOT is_second AND NOT is_unseen AS is_news,
           CASE WHEN cardinality(lines) = 0 THEN NULL
                WHEN log_lines + cardinality(lines) > $4 THEN 'too_large'
                WHEN minute_lines + cardinality(lines) > $5 THEN 'too_many_requests'
           END AS logs_refusal,
           CASE WHEN octet_length(checkpoint::text) > $3 THEN 'too_large' END
               AS checkpoint_refusal
    FROM judged
), taken AS MATERIALIZED (
    SELECT *, CASE WHEN logs_refusal IS NULL THEN cardinality(lines) ELSE 0 END AS new_lines
    FROM weighed WHERE is_news
), spoken AS (
    INSERT INTO fetchlock.progress AS p (id, shard, updated_at, lock_token, sequence, percent, subtext,
                                    log_lines, minute_at, minute_lines, checkpoint)
    SELECT id, $1, CASE WHEN coalesce(percent::text, subtext) IS NOT NULL THEN now() END,
           CASE WHEN sequence IS NOT NULL THEN lock_token END, sequence, percent, subtext,
           log_lines + new_lines, minute_at, minute_lines + new_lines,
           CASE WHEN checkpoint_refusal IS NULL THEN checkpoint END
    FROM taken
    ON CONFLICT (id, shard) DO UPDATE
        SET updated_at = coalesce(excluded.updated_at, p.updated_at),
            lock_token = coalesce(excluded.lock_token, p.lock_token),
            sequence = coalesce(excluded.sequence, p.sequence),
            percent = coalesce(excluded.percent, p.percent),
            subtext = coalesce(excluded.subtext, p.subtext),
            log_lines = excluded.log_lines, minute_at = excluded.minute_at,
            minute_lines = excluded.minute_lines,
            checkpoint = coalesce(excluded.checkpoint, p.checkpoint)
), logged AS (
    INSERT INTO fetchlock.log_line (id, shard, number, line)
    SELECT t.id, $1, t.log_lines + l.place, l.line
    FROM taken t CROSS JOIN LATERAL unnest(t.lines) WITH ORDINALITY AS l (line, place)
    WHERE t.logs_refusal IS NULL
), asked AS MATERIALIZED (
    -- A map instead of a join: see fetch_and_lock. Of equal keys it keeps the last.
    SELECT jsonb_object_agg(id, lock_expires_at ORDER BY request, item) AS by_id,
           ARRAY(SELECT id FROM taken) AS spoken
    FROM judged WHERE is_held
), renewed AS (
    UPDATE fetchlock.open_task t
    -- The version before may be of a task that nobody held: it is checked all the same.
    SET lock_expires_at = CASE WHEN t.state = 'locked'
                               THEN (asked.by_id ->> t.id::text)::timestamptz
                               ELSE t.lock_expires_at END,
        reported = t.reported OR t.id = ANY (asked.spoken)
    FROM asked
    WHERE t.id = ANY (ARRAY(SELECT id FROM judged WHERE is_held)) AND t.shard = $1
), told AS (
    SELECT request, string_agg(CASE
        WHEN NOT is_held THEN json_build_object('id', given_id, 'code', 'refused')::text
        ELSE concat(
            '{"id":"', id, '","outcome":"done","lockLost":false,"cancelRequested":',
            cancel_requested::text, ',"lockExpiresAt":', to_json(lock_expires_at),
            CASE
                WHEN has_news AND NOT is_old AND NOT is_news THEN
                    ',"refused":[{"member":"sequence","code":"too_many_requests",'
                    || '"detail":"other news of this task came at the same time"}]'
                WHEN is_news AND coalesce(logs_refusal, checkpoint_refusal) IS NOT NULL THEN
                    ',"refused":' || array_to_json(array_remove(ARRAY[
                        CASE logs_refusal
                            WHEN 'too_large' THEN json_build_object(
                                'member', 'logs', 'code', logs_refusal,
                                'detail', 'the log of a task has ' || $4 || ' lines at most')
                            WHEN 'too_many_requests' THEN json_build_object(
                                'member', 'logs', 'code', logs_refusal, 'detail',
                                'the log of a task takes ' || $5 || ' lines a minute at most')
                        END::jsonb,
                        CASE WHEN checkpoint_refusal IS NOT NULL THEN json_build_object(
                            'member', 'checkpoint', 'code', checkpoint_refusal,
                            'detail', 'a checkpoint has ' || $3 || ' bytes at most')
                        END::jsonb], NULL))
            END, '}')
        END, ',' ORDER BY item) AS results,
        count(*) FILTER (WHERE NOT is_held) AS refused
    FROM weighed GROUP BY request
)
SELECT r.request::integer, '[' || coalesce(t.results, '') || ']' AS results,
       coalesce(t.refused, 0)::integer AS refused,
       -- Not EXISTS, which may be planned as a hash of all workers.
       (SELECT w.shard FROM fetchlock.worker w
        WHERE w.worker_id = r.worker_id AND w.shard = $1 LIMIT 1) IS NOT NULL AS is_to_drain,
       (SELECT (extract(epoch FROM min(lock_expires_at) - now()) * 1000)::double precision
        FROM judged WHERE is_held) AS due_ms
FROM request r
LEFT JOIN told t USING (request)
ORDER BY r.request;
