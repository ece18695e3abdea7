-- variables: set and remove variables of unfinished tasks.
-- $1 shard smallint, $2 task_ids text[], $3 variables json, $4 variable_types jsonb,
-- $5 deletions text[], $6 variables_bytes_max integer, $7 found_ids text[]
-- Those of $2 were named by the caller: all of them or none. Those of $7 were only found, so
-- that what was finished meanwhile is passed over. Returns a row for each, or no row at all
-- where one that was named is finished or unknown, or all are, which `refusals` then tells.
-- Nothing is set where one of them would have more bytes than $6 (is_too_large): what is to be
-- set counts as added to what there is.
-- The position is of those that are ready: who waits for certain variables looks again.
WITH wanted AS MATERIALIZED (
    SELECT fetchlock.as_id(w.id) AS id, bool_or(w.is_named) AS is_named
    FROM (
        SELECT id, true AS is_named FROM unnest($2::text[]) AS n (id)
        UNION ALL
        SELECT id, false FROM unnest($7::text[]) AS f (id)
    ) w
    GROUP BY fetchlock.as_id(w.id)
), target AS MATERIALIZED (
    -- Sorted, so that two statements about the same tasks wait for each other in one order.
    SELECT t.*, w.is_named
    FROM (SELECT id, is_named FROM wanted ORDER BY id) w
    CROSS JOIN LATERAL (
        SELECT t.id, t.lane_id, t.size_bytes,
               CASE t.state WHEN 'ready' THEN t.position END AS position, t.returned
        FROM fetchlock.open_task t WHERE t.id = w.id AND t.shard = $1 LIMIT 1
        FOR UPDATE
    ) t
), judged AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE is_named)
               = (SELECT count(*) FROM wanted WHERE is_named) AS is_complete,
           coalesce(bool_or(size_bytes + octet_length($3::json::text) > $6), false) AS is_too_large
    FROM target
), spoken AS MATERIALIZED (
    -- A map instead of a join: see fetch_and_lock.
    SELECT jsonb_object_agg(g.id, fetchlock.set_variables(g.id, $3, $4::jsonb, $5::text[], $1))
               AS bytes
    FROM target g, judged j WHERE j.is_complete AND NOT j.is_too_large
), flagged AS (
    UPDATE fetchlock.open_task t
    SET reported = true, size_bytes = (spoken.bytes ->> t.id::text)::integer
    FROM spoken
    WHERE t.id = ANY (ARRAY(SELECT g.id FROM target g, judged j
                            WHERE j.is_complete AND NOT j.is_too_large)) AND t.shard = $1
)
SELECT g.lane_id, g.position, g.returned, j.is_too_large FROM target g, judged j WHERE j.is_complete;
