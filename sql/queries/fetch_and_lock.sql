-- fetch_and_lock: lock the oldest ready tasks of a set of lanes for the waiters in turn.
-- $1 shard smallint,
-- $2 lane_ids integer[], $3 ranks integer[], $4 returned boolean[], $5 floors bigint[],
-- $6 lock_durations_ms bigint[], $7 wanted_variables text[],
-- $8 lanes_json text[], $9 worker_ids text[], $10 shares integer[], $11 bytes_max bigint
-- $2 to $8 are the scans: one stretch of one lane's ready index each, with the
-- rank of its priority (the highest first) and the members that the lane gives
-- its tasks. $9 and $10 are the waiters: waiter n gets the tasks after share
-- n-1 up to share n, so the last share is the demand.
-- Returns one row: per waiter a JSON text and a count, how many tasks were seen
-- (more than were locked: another broker was at the same lanes), and per scan
-- the last position and the number of the tasks that were locked.
WITH scan AS MATERIALIZED (
    SELECT * FROM unnest($2::integer[], $3::integer[], $4::boolean[], $5::bigint[])
        AS s (lane_id, rank, returned, floor)
), demand AS MATERIALIZED (
    SELECT ($10::integer[])[cardinality($10::integer[])] AS tasks
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
    WHERE bytes_before < $11
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
), owner AS MATERIALIZED (
    -- Whose each task is, where several wait. A map instead of a join: joined by id, the planner
    -- may walk the whole table, as it does when it was last analysed empty.
    SELECT jsonb_object_agg(id, ($9::text[])[1 + width_bucket(turn - 1, $10::integer[])])
        FILTER (WHERE cardinality($9::text[]) > 1) AS worker_ids
    FROM picked
), fence AS MATERIALIZED (
    -- One token for the whole claim: a fence has to tell the locks of one task apart.
    SELECT gen_random_uuid() AS lock_token
), locked AS (
    UPDATE fetchlock.open_task t
    SET state = 'locked', returned = true, attempt = t.attempt + 1,
        worker_id = CASE WHEN cardinality($9::text[]) = 1 THEN ($9::text[])[1]
                         ELSE owner.worker_ids ->> t.id::text END,
        lock_token = fence.lock_token, locked_at = now(),
        lock_expires_at = now() + interval '1 millisecond'
            * ($6::bigint[])[array_position($2::integer[], t.lane_id)],
        -- The first lock starts it; `least` keeps what is earlier, and passes over nulls.
        deadline_at = least(t.deadline_at,
                            now() + interval '1 millisecond' * t.execution_timeout_ms)
    FROM owner, fence
    WHERE t.id = ANY (ARRAY(SELECT id FROM picked)) AND t.shard = $1
    RETURNING t.id, t.position, t.worker_id, t.available_at, t.retries, t.attempt, t.error_code,
        t.error_message, t.error_details, t.deadline_at, t.reported,
        array_position($2::integer[], t.lane_id) AS scan
), alike AS MATERIALIZED (
    -- What all tasks of one scan have in common is put together once, not once a task.
    SELECT array_agg(concat(
        ',"state":"LOCKED",', s.lane_json, ',"lockToken":"', fence.lock_token,
        '","lockExpiresAt":', to_json(now() + s.lock_duration_ms * interval '1 millisecond'),
        ',"result":null,"finishedAt":null,"callbackExpiresAt":null,"cancelRequested":false',
        ',"startedAt":', to_json(now())) ORDER BY s.scan) AS members
    FROM unnest($6::bigint[], $8::text[]) WITH ORDINALITY
        AS s (lock_duration_ms, lane_json, scan), fence
), told AS MATERIALIZED (
    SELECT 1 + width_bucket(o.turn - 1, $10::integer[]) AS waiter, count(*) AS tasks,
        -- Put together by hand: json_build_object takes twice as long. Nor are the members that
        -- most tasks leave empty looked at one by one.
        '[' || string_agg(concat(
            '{"id":"', o.id, '"', (SELECT members FROM alike)[o.scan],
            ',"attempt":', o.attempt, ',"workerId":', to_json(o.worker_id),
            ',"retries":', o.retries, ',"availableAt":', to_json(o.available_at),
            ',"createdAt":', t.created_json,
            CASE WHEN t.is_bare THEN
                ',"businessKey":null,"processInstanceId":null,"processDefinitionKey":null,'
                || '"activityId":null,"traceparent":null'
            ELSE concat(
                ',"businessKey":', coalesce(to_json(t.business_key)::text, 'null'),
                ',"processInstanceId":', coalesce(to_json(t.process_instance_id)::text, 'null'),
                ',"processDefinitionKey":',
                coalesce(to_json(t.process_definition_key)::text, 'null'),
                ',"activityId":', coalesce(to_json(t.activity_id)::text, 'null'),
                ',"traceparent":', coalesce(to_json(t.traceparent)::text, 'null')) END,
            CASE WHEN o.error_message IS NULL AND o.error_code IS NULL THEN
                ',"errorCode":null,"errorMessage":null,"errorDetails":null'
            ELSE concat(
                ',"errorCode":', coalesce(to_json(o.error_code)::text, 'null'),
                ',"errorMessage":', coalesce(to_json(o.error_message)::text, 'null'),
                ',"errorDetails":', coalesce(to_json(o.error_details)::text, 'null')) END,
            CASE WHEN o.deadline_at IS NULL AND NOT o.reported THEN
                ',"timesOutAt":null,"progress":null'
            ELSE concat(
                ',"timesOutAt":', coalesce(to_json(o.deadline_at)::text, 'null'), ',',
                -- Reported while this waited for the task: its row is not in the snapshot.
                coalesce(CASE WHEN o.reported THEN fetchlock.reported(o.id, $1) END,
                         '"progress":null')) END,
            ',"variables":', CASE WHEN ($7::text[])[o.scan] IS NULL THEN t.variables ELSE (
                SELECT coalesce(json_object_agg(n.name, t.variables -> n.name), '{}')
                FROM json_array_elements_text(($7::text[])[o.scan]::json) AS n (name)
                WHERE t.variables -> n.name IS NOT NULL) END,
            '}'), ',' ORDER BY o.turn) || ']' AS tasks_json
    FROM (
        SELECT *, row_number() OVER (ORDER BY ($3::integer[])[scan], position)::integer AS turn
        FROM locked) o
    CROSS JOIN LATERAL (
        SELECT t.*, to_json(t.created_at) AS created_json,
               coalesce(t.business_key, t.process_instance_id, t.process_definition_key,
                        t.activity_id, t.traceparent) IS NULL AS is_bare
        FROM fetchlock.task t WHERE t.id = o.id AND t.shard = $1 LIMIT 1) t
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
