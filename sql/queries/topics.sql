-- topics: the topics of the open tasks that match, each once.
-- $1 shard smallint, $2 filters jsonb
-- The filters are those of fetchlock.matching, where it also stands what they cost.
SELECT DISTINCT l.topic COLLATE "C" AS topic
FROM (SELECT DISTINCT m.lane_id FROM fetchlock.matching($2, $1) m) m
CROSS JOIN LATERAL (
    SELECT l.topic FROM fetchlock.lane l WHERE l.lane_id = m.lane_id AND l.shard = $1 LIMIT 1) l
ORDER BY topic;
