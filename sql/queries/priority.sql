-- priority: move an unfinished task to the lane of another priority.
-- $1 shard smallint, $2 task_id text, $3 priority integer
-- Returns a row, or none: `refusals` then says whether it is finished or unknown. Its answer
-- is null where there is no such lane: `lane_beside` makes it.
-- Its place is among the returned ones there: a scan of the fresh ones may have gone past it.
WITH target AS MATERIALIZED (
    SELECT t.id, t.lane_id FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
    FOR UPDATE
), beside AS MATERIALIZED (
    SELECT b.lane_id
    FROM target g
    CROSS JOIN LATERAL (
        SELECT * FROM fetchlock.lane l WHERE l.lane_id = g.lane_id AND l.shard = $1 LIMIT 1) l
    CROSS JOIN LATERAL (
        SELECT b.lane_id FROM fetchlock.lane b
        WHERE b.topic = l.topic AND b.variant = l.variant AND b.priority = $3 AND b.shard = $1
        LIMIT 1) b
), moved AS (
    UPDATE fetchlock.open_task t
    SET lane_id = (SELECT lane_id FROM beside),
        returned = t.returned OR t.lane_id <> (SELECT lane_id FROM beside)
    WHERE t.id = ANY (ARRAY(SELECT g.id FROM target g, beside)) AND t.shard = $1
    RETURNING t.lane_id, CASE t.state WHEN 'ready' THEN t.position END AS position
)
SELECT m.lane_id, m.position, NULL::double precision AS due_ms,
       CASE WHEN m.lane_id IS NOT NULL
            THEN json_build_object('priority', $3)::text END AS answer
FROM target
LEFT JOIN moved m ON true;
