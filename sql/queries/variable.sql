-- variable: one variable, of the youngest of these tasks that has it.
-- $1 shard smallint, $2 task_ids text[], $3 name text
-- Its value and the note of its type; what the result of a finished task says anew counts. A row
-- without a value where none of the tasks has it, and no row where there is none of the tasks.
-- The tasks are looked into one after the other, since each may have megabytes of variables.
WITH known AS MATERIALIZED (
    SELECT DISTINCT t.id
    FROM unnest($2::text[]) AS w (id)
    CROSS JOIN LATERAL (
        SELECT t.id FROM fetchlock.task t
        WHERE t.id = fetchlock.as_id(w.id) AND t.shard = $1 LIMIT 1) t
)
SELECT v.value, v.note
FROM (SELECT FROM known LIMIT 1) k
LEFT JOIN LATERAL (
    SELECT v.value, v.note
    FROM (SELECT id FROM known ORDER BY id DESC) i
    CROSS JOIN LATERAL (
        SELECT coalesce(f.result -> $3, coalesce(p.variables, t.variables) -> $3) AS value,
               CASE WHEN f.result -> $3 IS NOT NULL THEN f.result_types
                    ELSE coalesce(p.variable_types, t.variable_types) END -> $3 AS note
        FROM fetchlock.task t
        LEFT JOIN LATERAL (
            SELECT p.variables, p.variable_types FROM fetchlock.progress p
            WHERE p.id = i.id AND p.shard = $1 LIMIT 1) p ON true
        LEFT JOIN LATERAL (
            SELECT f.result, f.result_types FROM fetchlock.outcome f
            WHERE f.id = i.id AND f.shard = $1 LIMIT 1) f ON true
        WHERE t.id = i.id AND t.shard = $1
        -- Once a task, and not once more for each use.
        LIMIT 1
    ) v
    WHERE v.value IS NOT NULL
    ORDER BY i.id DESC LIMIT 1
) v ON true;
