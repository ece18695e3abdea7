-- load_lanes: the lanes made since the last look.
-- $1 shard smallint, $2 after_lane_id integer
SELECT lane_id, topic, process_definition_id, priority, tenant_id, process_definition_key,
       process_definition_version_tag
FROM fetchlock.lane
WHERE lane_id > $2 AND shard = $1
ORDER BY lane_id;
