-- retries: say how many failures tasks may still have; a failed one is redriven.
-- $1 shard smallint, $2 task_ids text[], $3 retries integer, $4 found_ids text[]
-- Those of $2 were named by the caller: all of them or none. Those of $4 were only found, so
-- that what was finished meanwhile is passed over. Returns a row for each, or no row at all
-- where one that was named is finished or unknown, or all are, which `refusals` then tells.
-- A redriven task starts with no expiries and no total timeout, and its execution timeout
-- with the next lock: it was a person who sent it again. With no retries at all a task fails,
-- one that somebody holds once it is let go of.
WITH wanted AS MATERIALIZED (
    SELECT fetchlock.as_id(w.id) AS id, bool_or(w.is_named) AS is_named
    FROM (
        SELECT id, true AS is_named FROM unnest($2::text[]) AS n (id)
        UNION ALL
        SELECT id, false FROM unnest($4::text[]) AS f (id)
    ) w
    GROUP BY fetchlock.as_id(w.id)
), target AS MATERIALIZED (
    -- Sorted, so that two statements about the same tasks wait for each other in one order.
    SELECT t.id, w.is_named
    FROM (SELECT id, is_named FROM wanted ORDER BY id) w
    CROSS JOIN LATERAL (
        SELECT t.id FROM fetchlock.open_task t WHERE t.id = w.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t
), complete AS MATERIALIZED (
    SELECT (SELECT count(*) FROM target WHERE is_named)
               = (SELECT count(*) FROM wanted WHERE is_named) AS is_complete
)
UPDATE fetchlock.open_task t
SET retries = $3, retries_set = true,
    state = CASE
        WHEN t.state IN ('delayed', 'ready') AND $3 = 0 THEN 'failed'::fetchlock.open_state
        WHEN t.state = 'failed' AND $3 > 0 THEN 'ready'
        ELSE t.state END,
    expiries = CASE WHEN t.state = 'failed' AND $3 > 0 THEN 0 ELSE t.expiries END,
    available_at = CASE WHEN t.state = 'failed' AND $3 > 0 THEN now() ELSE t.available_at END,
    total_expires_at = CASE WHEN t.state = 'failed' AND $3 > 0 THEN NULL
                            ELSE t.total_expires_at END,
    deadline_at = CASE WHEN t.state = 'failed' AND $3 > 0 THEN NULL ELSE t.deadline_at END,
    -- Whose lock ran out may still end a task that goes on, but not one that was sent again.
    lost_by = CASE WHEN t.state = 'failed' THEN NULL ELSE t.lost_by END,
    lost_token = CASE WHEN t.state = 'failed' THEN NULL ELSE t.lost_token END
FROM complete
WHERE complete.is_complete AND t.id = ANY (ARRAY(SELECT id FROM target)) AND t.shard = $1
RETURNING t.lane_id, CASE t.state WHEN 'ready' THEN t.position END AS position,
    NULL::double precision AS due_ms,
    json_build_object(
        'state', CASE WHEN t.state IN ('delayed', 'ready') THEN 'CREATED'
                      ELSE upper(t.state::text) END,
        'retries', t.retries, 'availableAt', t.available_at)::text AS answer;
