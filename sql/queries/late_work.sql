-- late_work: say whether work on a topic is welcome after its lock ran out, or leave it open.
-- $1 shard smallint, $2 topic text, $3 is_accepted boolean
-- Null leaves it to what the worker's dialect is used to.
WITH said AS (
    INSERT INTO fetchlock.topic (topic, shard, accepts_late)
    SELECT $2::text, $1, $3::boolean WHERE $3::boolean IS NOT NULL
    ON CONFLICT (topic, shard) DO UPDATE SET accepts_late = excluded.accepts_late
)
DELETE FROM fetchlock.topic p
WHERE p.topic = $2 AND p.shard = $1 AND $3::boolean IS NULL;
