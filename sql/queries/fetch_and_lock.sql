-- fetch_and_lock: lock the oldest ready tasks of a set of lanes for the waiters in turn.
-- $1 shard smallint,
-- $2 lane_ids integer[], $3 ranks integer[], $4 returned boolean[], $5 floors bigint[],
-- $6 lock_durations_ms bigint[], $7 wanted_variables text[],
-- $8 worker_ids text[], $9 shares integer[], $10 bytes_max bigint
-- $2 to $7 are the scans: one stretch of one lane's ready index each, with the
-- rank of its priority (the highest first). $8 and $9 are the waiters: waiter n
-- gets the tasks after share n-1 up to share n, so the last share is the demand.
-- Returns one row: per waiter a JSON text and a count, how many tasks were seen
-- (more than were locked: another broker was at the same lanes), and per scan
-- the last position and the number of the tasks that were locked.
WITH scan AS MATERIALIZED (
    SELECT * FROM unnest($2::integer[], $3::integer[], $4::boolean[], $5::bigint[])
        AS s (lane_id, rank, returned, floor)
), demand AS MATERIALIZED (
    SELECT ($9::integer[])[cardinality($9::integer[])] AS tasks
), head AS MATERIALIZED (
    -- Look before locking: merging the lanes of a rank by age needs to see more
    -- rows than are handed out, but must not lock more. The ranks are a lateral
    -- loop under a limit, so the lower ones are not read while the higher suffice.
    SELECT h.*
    FROM (SELECT DISTINCT rank FROM scan ORDER BY rank) r
    CROSS JOIN LATERAL (
        SELECT s.*, t.position, t.size_bytes
        FROM scan s
        CROSS JOIN LATERAL (
            SELECT t.position, t.size_bytes FROM fetchlock.open_task t
            WHERE t.state = 'ready' AND t.lane_id = s.lane_id AND t.returned = s.returned
              AND t.position > s.floor AND t.shard = $1
            ORDER BY t.position LIMIT (SELECT tasks FROM demand)
        ) t
        WHERE s.rank = r.rank
        ORDER BY t.position LIMIT (SELECT tasks FROM demand)
    ) h
    LIMIT (SELECT tasks FROM demand)
), part AS (
    SELECT lane_id, rank, returned, floor, count(*) AS tasks
    FROM (SELECT *, sum(size_bytes) OVER (ORDER BY rank, position) - size_bytes AS bytes_before
          FROM head) h
    WHERE bytes_before < $10
    GROUP BY lane_id, rank, returned, floor
), picked AS MATERIALIZED (
    SELECT t.id, p.lane_id, p.returned, t.position,
           row_number() OVER (ORDER BY p.rank, t.position)::integer AS turn
    FROM part p
    CROSS JOIN LATERAL (
        SELECT t.id, t.position FROM fetchlock.open_task t
        WHERE t.state = 'ready' AND t.lane_id = p.lane_id AND t.returned = p.returned
          AND t.position > p.floor AND t.shard = $1
        ORDER BY t.position LIMIT p.tasks
        FOR UPDATE SKIP LOCKED
    ) t
), turns AS MATERIALIZED (
    -- A map instead of a join: joined by id, the planner may walk the whole
    -- table, as it does when it was last analysed empty.
    -- One token for the whole claim: a fence has to tell the locks of one task apart.
    SELECT jsonb_object_agg(id, turn) AS by_id, gen_random_uuid() AS lock_token FROM picked
), locked AS (
    UPDATE fetchlock.open_task t
    SET state = 'locked', returned = true, attempt = t.attempt + 1,
        worker_id = ($8::text[])[
            1 + width_bucket((turns.by_id ->> t.id::text)::integer - 1, $9::integer[])],
        lock_token = turns.lock_token, locked_at = now(),
        lock_expires_at = now() + interval '1 millisecond'
            * ($6::bigint[])[array_position($2::integer[], t.lane_id)]
    FROM turns
    WHERE t.id = ANY (ARRAY(SELECT id FROM picked)) AND t.shard = $1
    RETURNING t.*, (turns.by_id ->> t.id::text)::integer AS turn,
        ($7::text[])[array_position($2::integer[], t.lane_id)]::json AS wanted
), told AS MATERIALIZED (
    SELECT 1 + width_bucket(o.turn - 1, $9::integer[]) AS waiter, count(*) AS tasks,
        -- Put together by hand: json_build_object takes twice as long.
        '[' || string_agg(concat(
            '{"id":"', o.id, '","topic":', l.topic_json, ',"state":"LOCKED","priority":', l.priority,
            ',"businessKey":', coalesce(to_json(t.business_key)::text, 'null'),
            ',"processInstanceId":', coalesce(to_json(t.process_instance_id)::text, 'null'),
            ',"processDefinitionId":', l.process_definition_json,
            ',"processDefinitionKey":', coalesce(to_json(t.process_definition_key)::text, 'null'),
            ',"activityId":', coalesce(to_json(t.activity_id)::text, 'null'),
            ',"tenantId":', l.tenant_json,
            ',"traceparent":', coalesce(to_json(t.traceparent)::text, 'null'),
            ',"variables":', CASE WHEN o.wanted IS NULL THEN t.variables ELSE (
                SELECT coalesce(json_object_agg(n.name, t.variables -> n.name), '{}')
                FROM json_array_elements_text(o.wanted) AS n (name)
                WHERE t.variables -> n.name IS NOT NULL) END,
            ',"result":null,"retries":', o.retries, ',"attempt":', o.attempt,
            ',"workerId":', to_json(o.worker_id), ',"lockExpiresAt":', to_json(o.lock_expires_at),
            ',"lockToken":"', o.lock_token, '","availableAt":', to_json(o.available_at),
            ',"createdAt":', to_json(t.created_at),
            ',"finishedAt":null,"errorCode":', coalesce(to_json(o.error_code)::text, 'null'),
            ',"errorMessage":', coalesce(to_json(o.error_message)::text, 'null'),
            ',"errorDetails":', coalesce(to_json(o.error_details)::text, 'null'),
            ',"progress":null}'), ',' ORDER BY o.turn) || ']' AS tasks_json
    FROM locked o
    CROSS JOIN LATERAL (
        SELECT l.priority, to_json(l.topic) AS topic_json,
               coalesce(to_json(nullif(l.process_definition_id, ''))::text, 'null')
                   AS process_definition_json,
               coalesce(to_json(nullif(l.tenant_id, ''))::text, 'null') AS tenant_json
        FROM fetchlock.lane l WHERE l.lane_id = o.lane_id AND l.shard = $1 LIMIT 1) l
    CROSS JOIN LATERAL (
        SELECT * FROM fetchlock.task t WHERE t.id = o.id AND t.shard = $1 LIMIT 1) t
    GROUP BY 1
)
SELECT told.waiters, told.counts, told.bodies, (SELECT count(*) FROM head)::integer AS seen,
       tip.lane_ids, tip.returned, tip.positions, tip.tasks
FROM (
    SELECT array_agg(waiter) AS waiters, array_agg(tasks::integer) AS counts,
           array_agg(tasks_json) AS bodies
    FROM told
) told, (
    SELECT array_agg(lane_id) AS lane_ids, array_agg(returned) AS returned,
           array_agg(position) AS positions, array_agg(tasks) AS tasks
    FROM (SELECT lane_id, returned, max(position) AS position, count(*)::integer AS tasks
          FROM picked GROUP BY lane_id, returned) p
) tip;
