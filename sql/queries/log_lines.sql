-- log_lines: the lines of a task's log after a given one, the oldest first.
-- $1 shard smallint, $2 task_id uuid, $3 after integer, $4 limit bigint,
-- $5 bytes_max bigint
-- A page ends early where its lines outgrow $5 bytes, but has one line at least.
-- Returns one row; `lines` is null where there is no such task. The numbers have no gaps and
-- are given under the task's row lock, so a reader that goes on from the last misses none.
SELECT CASE WHEN EXISTS (
           SELECT FROM fetchlock.task t WHERE t.id = $2 AND t.shard = $1
       ) THEN '[' || coalesce(string_agg(json_build_object(
           'number', l.number, 'loggedAt', l.logged_at, 'line', l.line)::text,
           ',' ORDER BY l.number), '') || ']' END AS lines,
       coalesce(max(l.number), $3) AS next
FROM (
    SELECT l.*, sum(octet_length(l.line)) OVER (ORDER BY l.number) - octet_length(l.line)
                AS bytes_before
    FROM (
        SELECT l.number, l.logged_at, l.line FROM fetchlock.log_line l
        WHERE l.id = $2 AND l.number > $3 AND l.shard = $1
        ORDER BY l.number LIMIT $4
    ) l
) l
WHERE l.bytes_before < $5::bigint;
