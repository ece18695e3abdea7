-- count: how many open tasks match.
-- $1 shard smallint, $2 filters jsonb
-- The filters are those of fetchlock.matching, where it also stands what they cost.
SELECT count(*) AS count FROM fetchlock.matching($2, $1);
