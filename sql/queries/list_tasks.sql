-- list_tasks: the ids of the newest tasks that match, and where to go on.
-- $1 shard smallint, $2 topic text, $3 states text[], $4 worker_id text, $5 business_key text,
-- $6 process_instance_id text, $7 from_id uuid, $8 below_id uuid, $9 limit bigint,
-- $10 looked_at_max bigint
-- $7 and $8 bound the ids, which are in the order of creation: the instants of a
-- search and the cursor both become ids. A filter that few tasks pass would walk
-- the whole history, so one page looks at $10 tasks at most; it may be short, or
-- empty, and still have a next one.
WITH looked_at AS MATERIALIZED (
    SELECT t.id, t.lane_id
    FROM fetchlock.task t
    WHERE t.id >= $7 AND t.id < $8 AND t.shard = $1
      AND ($5::text IS NULL OR t.business_key = $5)
      AND ($6::text IS NULL OR t.process_instance_id = $6)
    ORDER BY t.id DESC LIMIT $10
), matching AS MATERIALIZED (
    SELECT t.id
    FROM looked_at t
    CROSS JOIN LATERAL (
        SELECT l.topic FROM fetchlock.lane l WHERE l.lane_id = t.lane_id AND l.shard = $1 LIMIT 1
    ) l
    LEFT JOIN LATERAL (
        SELECT o.state::text, o.worker_id FROM fetchlock.open_task o
        WHERE o.id = t.id AND o.shard = $1 LIMIT 1
    ) o ON true
    LEFT JOIN LATERAL (
        SELECT f.state::text, f.worker_id FROM fetchlock.outcome f
        WHERE f.id = t.id AND f.shard = $1 LIMIT 1
    ) f ON true
    WHERE ($2::text IS NULL OR l.topic = $2)
      AND ($3::text[] IS NULL OR coalesce(o.state, f.state) = ANY ($3))
      AND ($4::text IS NULL OR coalesce(o.worker_id, f.worker_id) = $4)
    ORDER BY t.id DESC LIMIT $9
)
SELECT ARRAY(SELECT id FROM matching ORDER BY id DESC) AS ids,
       CASE
           WHEN (SELECT count(*) FROM matching) = $9 THEN (SELECT min(id::text)::uuid FROM matching)
           WHEN (SELECT count(*) FROM looked_at) = $10
               THEN (SELECT min(id::text)::uuid FROM looked_at)
       END AS next_below_id;
