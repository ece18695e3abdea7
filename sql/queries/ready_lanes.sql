-- ready_lanes: which of these lanes have something to fetch.
-- $1 shard smallint, $2 lane_ids integer[], $3 floors bigint[], $4 after_lane_id integer
-- One look for all parked polls, for when a wake-up got lost or NOTIFY is off.
-- Also counts the lanes after $4, so that the caller sees whether it knows all of
-- them: lanes are numbered before they are committed, so a new one is not always
-- the last one.
SELECT array_agg(l.lane_id) FILTER (WHERE r.position IS NOT NULL OR f.position IS NOT NULL)
           AS lane_ids,
       (SELECT count(*) FROM fetchlock.lane n WHERE n.lane_id > $4 AND n.shard = $1)::integer
           AS lanes_after
FROM unnest($2::integer[], $3::bigint[]) AS l (lane_id, floor)
LEFT JOIN LATERAL (
    SELECT t.position FROM fetchlock.open_task t
    WHERE t.state = 'ready' AND t.lane_id = l.lane_id AND t.returned AND t.shard = $1
    ORDER BY t.position LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT t.position FROM fetchlock.open_task t
    WHERE t.state = 'ready' AND t.lane_id = l.lane_id AND NOT t.returned
      AND t.position > l.floor AND t.shard = $1
    ORDER BY t.position LIMIT 1
) f ON true;
