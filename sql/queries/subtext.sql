-- subtext: say in one line how an unfinished task is getting on.
-- $1 shard smallint, $2 task_id text, $3 subtext text
-- Returns a row, or none: `refusals` then says whether it is finished or unknown.
WITH target AS MATERIALIZED (
    SELECT t.id, t.lane_id FROM fetchlock.open_task t
    WHERE t.id = fetchlock.as_id($2) AND t.shard = $1 LIMIT 1
    FOR UPDATE
), spoken AS (
    INSERT INTO fetchlock.progress (id, shard, subtext, updated_at)
    SELECT id, $1, $3, now() FROM target
    ON CONFLICT (id, shard) DO UPDATE
        SET subtext = excluded.subtext, updated_at = excluded.updated_at
), flagged AS (
    -- Once: the hot row need not be written with each line.
    UPDATE fetchlock.open_task t SET reported = true
    WHERE t.id = ANY (ARRAY(SELECT id FROM target)) AND NOT t.reported AND t.shard = $1
)
SELECT lane_id FROM target;
