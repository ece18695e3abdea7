-- release_due: take expired locks back and make delayed tasks ready whose time has come.
-- $1 shard smallint, $2 look_back_ms double precision, $3 tasks_max bigint,
-- $4 max_expiries integer, $5 ahead_ms double precision
-- Deadlines longer ago than $2 (null: none) were dealt with. It keeps the scans off
-- index entries that died since but that an old snapshot still keeps in the index.
-- A lock of under a second was only a look at the task: it is no expiry.
-- Returns a row per lane, and in every row whether there was more than $3, whether there is
-- something due that is for `settle_due`, and the next deadline within $5, so that the caller
-- can sleep until then.
WITH floor AS MATERIALIZED (
    SELECT coalesce(now() - interval '1 millisecond' * $2, '-infinity') AS instant
), expired AS MATERIALIZED (
    SELECT t.id, t.retries, t.expiries + CASE
               WHEN t.lock_expires_at - t.locked_at < interval '1 second' THEN 0 ELSE 1
           END AS expiries
    FROM fetchlock.open_task t
    WHERE t.state = 'locked' AND t.lock_expires_at <= now()
      AND t.lock_expires_at > (SELECT instant FROM floor)
      AND NOT (t.cancel_requested OR t.called_back) AND t.shard = $1
    ORDER BY t.lock_expires_at LIMIT $3
    FOR UPDATE SKIP LOCKED
), due AS MATERIALIZED (
    SELECT t.id
    FROM fetchlock.open_task t
    WHERE t.state = 'delayed' AND t.available_at <= now()
      AND t.available_at > (SELECT instant FROM floor) AND t.shard = $1
    ORDER BY t.available_at LIMIT $3
    FOR UPDATE SKIP LOCKED
), poisonous AS MATERIALIZED (
    -- Those that expired too often, and those to which an operator left no retries meanwhile.
    SELECT coalesce(array_agg(id) FILTER (WHERE expiries >= $4), '{}') AS ids,
           coalesce(array_agg(id) FILTER (WHERE expiries >= $4 OR retries = 0), '{}') AS failed
    FROM expired
), promoted AS (
    UPDATE fetchlock.open_task t SET state = 'ready'
    WHERE t.id = ANY (ARRAY(SELECT id FROM due)) AND t.shard = $1
    RETURNING t.lane_id, t.position
), released AS (
    UPDATE fetchlock.open_task t
    SET state = CASE WHEN t.id = ANY (poisonous.failed) THEN 'failed'::fetchlock.open_state
                     ELSE 'ready' END,
        error_code = CASE WHEN t.id = ANY (poisonous.ids) THEN 'poison' ELSE t.error_code END,
        error_message = CASE
            WHEN t.id = ANY (poisonous.ids)
                THEN 'the lock expired ' || $4 || ' times, last with worker ' || t.worker_id
            ELSE t.error_message END,
        expiries = t.expiries + CASE
            WHEN t.lock_expires_at - t.locked_at < interval '1 second' THEN 0 ELSE 1 END,
        lost_by = t.worker_id, lost_token = t.lock_token,
        worker_id = NULL, lock_token = NULL, locked_at = NULL, lock_expires_at = NULL
    FROM poisonous
    WHERE t.id = ANY (ARRAY(SELECT id FROM expired)) AND t.shard = $1
    RETURNING t.lane_id, t.position, t.state
), moved AS (
    SELECT lane_id, position, false AS is_expiry, false AS is_poison FROM promoted
    UNION ALL
    SELECT lane_id, position, true, state = 'failed' FROM released
), lanes AS (
    SELECT lane_id, min(position) FILTER (WHERE NOT is_poison) AS position,
           count(*) FILTER (WHERE is_expiry)::integer AS expiries,
           count(*) FILTER (WHERE is_poison)::integer AS incidents
    FROM moved GROUP BY lane_id
)
SELECT l.lane_id, l.position, l.expiries, l.incidents, s.more, s.to_settle, s.next_due_ms
FROM (
    SELECT (SELECT count(*) FROM expired) = $3 OR (SELECT count(*) FROM due) = $3 AS more,
           -- Ordered, and so not EXISTS, to keep each on its index while the table is empty.
           coalesce(
               (SELECT t.id FROM fetchlock.open_task t
                WHERE t.state = 'awaiting' AND t.lock_expires_at <= now()
                  AND t.lock_expires_at > (SELECT instant FROM floor) AND t.shard = $1
                ORDER BY t.lock_expires_at LIMIT 1),
               (SELECT t.id FROM fetchlock.open_task t
                WHERE t.deadline_at <= now() AND t.deadline_at > (SELECT instant FROM floor)
                  AND t.state <> 'failed' AND t.shard = $1
                ORDER BY t.deadline_at LIMIT 1),
               (SELECT t.id FROM fetchlock.open_task t
                WHERE t.state = 'locked' AND t.lock_expires_at <= now()
                  AND t.lock_expires_at > (SELECT instant FROM floor)
                  AND (t.cancel_requested OR t.called_back) AND t.shard = $1
                ORDER BY t.lock_expires_at LIMIT 1)) IS NOT NULL AS to_settle,
           (extract(epoch FROM least(
               (SELECT t.lock_expires_at FROM fetchlock.open_task t
                WHERE t.state = 'awaiting' AND t.lock_expires_at > now()
                  AND t.lock_expires_at <= now() + interval '1 millisecond' * $5
                  AND t.shard = $1
                ORDER BY t.lock_expires_at LIMIT 1),
               (SELECT t.deadline_at FROM fetchlock.open_task t
                WHERE t.deadline_at > now() AND t.state <> 'failed'
                  AND t.deadline_at <= now() + interval '1 millisecond' * $5
                  AND t.shard = $1
                ORDER BY t.deadline_at LIMIT 1),
               (SELECT t.lock_expires_at FROM fetchlock.open_task t
                WHERE t.state = 'locked' AND t.lock_expires_at > now()
                  AND t.lock_expires_at <= now() + interval '1 millisecond' * $5
                  AND t.shard = $1
                ORDER BY t.lock_expires_at LIMIT 1),
               (SELECT t.available_at FROM fetchlock.open_task t
                WHERE t.state = 'delayed' AND t.available_at > now()
                  AND t.available_at <= now() + interval '1 millisecond' * $5 AND t.shard = $1
                ORDER BY t.available_at LIMIT 1)) - now()) * 1000)::double precision
               AS next_due_ms
) s
LEFT JOIN lanes l ON true;
