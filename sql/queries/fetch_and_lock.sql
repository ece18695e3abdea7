-- fetch_and_lock: lock the oldest ready tasks of a set of lanes for the waiters in turn.
-- $1 shard smallint,
-- $2 lane_ids integer[], $3 ranks integer[], $4 returned boolean[], $5 floors bigint[],
-- $6 lock_durations_ms bigint[], $7 wanted_variables text[],
-- $8 lanes_json text[], $9 worker_ids text[], $10 shares integer[], $11 bytes_max bigint
-- <filtered>
-- $12 business_keys text[], $13 variable_filters integer[], $14 newest_first boolean,
-- $15 looked_at_max bigint, $16 any_variables json[]
-- </filtered>
-- $2 to $8 are the scans: one stretch of one lane's ready index each, with the
-- rank of its priority (the highest first) and the members that the lane gives
-- its tasks. $9 and $10 are the waiters: waiter n gets the tasks after share
-- n-1 up to share n, so the last share is the demand.
-- Returns one row: per waiter a JSON text and a count, how many tasks were seen
-- (more than were locked: another broker was at the same lanes), and per scan
-- the last position and the number of the tasks that were locked.
-- <filtered>
-- What stands between <filtered> and </filtered> is for fetches that wish for more than a lane
-- tells, or for the newest first: for all others it is left out, and what stands between <plain>
-- and </plain> is left in. $12 and $13 are the filters of the scans, the latter the places in $16.
-- In the order of the fetch as many tasks are looked at as $15 says, and as many bytes of variables
-- as $11 says. The answer also tells how far each scan came, the first task of each that was wanted
-- but held by somebody, and whether there is more for the next claim to look at. With the newest
-- first there are no floors; the next claim would look at the same, so there is no more.
-- A task is judged as it was when the statement began: who changes its variables in the moment
-- before it is locked comes too late for this fetch, and what is delivered may no longer fit.
-- </filtered>
WITH scan AS MATERIALIZED (
    -- <plain>
    SELECT * FROM unnest($2::integer[], $3::integer[], $4::boolean[], $5::bigint[])
        AS s (lane_id, rank, returned, floor)
    -- </plain>
    -- <filtered>
    SELECT * FROM unnest(
        $2::integer[], $3::integer[], $4::boolean[], $5::bigint[], $12::text[], $13::integer[]
    ) AS s (lane_id, rank, returned, floor, business_key, variable_filter)
), variable_filter AS MATERIALIZED (
    -- Taken apart once, not once a task.
    SELECT f.place, fetchlock.by_name(f.pairs) AS wanted
    FROM unnest($16::json[]) WITH ORDINALITY AS f (pairs, place)
    -- </filtered>
), demand AS MATERIALIZED (
    SELECT ($10::integer[])[cardinality($10::integer[])] AS tasks
-- <plain>
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
-- </plain>
-- <filtered>
), looked_at AS MATERIALIZED (
    SELECT *, coalesce(
        sum(CASE WHEN variable_filter IS NOT NULL THEN size_bytes END)
            OVER (ORDER BY turn ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        0) AS bytes_before
    FROM (
        SELECT h.*, row_number() OVER (
            ORDER BY h.rank, CASE WHEN $14 THEN -h.position ELSE h.position END) AS turn
        FROM (SELECT DISTINCT rank FROM scan ORDER BY rank) r
        CROSS JOIN LATERAL (
            SELECT s.*, t.*
            FROM scan s
            CROSS JOIN LATERAL (
                (SELECT t.id, t.position, t.size_bytes, t.reported FROM fetchlock.open_task t
                 WHERE t.state = 'ready' AND t.lane_id = s.lane_id AND t.returned = s.returned
                   AND t.position > s.floor AND t.shard = $1 AND NOT $14
                 ORDER BY t.position LIMIT $15)
                UNION ALL
                (SELECT t.id, t.position, t.size_bytes, t.reported FROM fetchlock.open_task t
                 WHERE t.state = 'ready' AND t.lane_id = s.lane_id AND t.returned = s.returned
                   AND t.shard = $1 AND $14
                 ORDER BY t.position DESC LIMIT $15)
            ) t
            WHERE s.rank = r.rank
            ORDER BY CASE WHEN $14 THEN -t.position ELSE t.position END LIMIT $15
        ) h
        LIMIT $15
    ) h
), head AS MATERIALIZED (
    SELECT turn, lane_id, returned, position,
           sum(size_bytes) OVER (ORDER BY turn) - size_bytes AS bytes_before
    FROM (
        -- In turn, and no further than to the last that is wanted.
        SELECT l.* FROM (SELECT * FROM looked_at ORDER BY turn OFFSET 0) l
        WHERE l.bytes_before < $11 AND (l.business_key IS NULL AND l.variable_filter IS NULL OR (
            SELECT (l.business_key IS NULL OR t.business_key = l.business_key)
               AND (l.variable_filter IS NULL OR fetchlock.has_any(
                   CASE WHEN l.reported THEN fetchlock.variables_of(t.id, t.variables, $1)
                        ELSE t.variables END,
                   (SELECT f.wanted FROM variable_filter f WHERE f.place = l.variable_filter)))
            FROM fetchlock.task t WHERE t.id = l.id AND t.shard = $1 LIMIT 1))
        LIMIT (SELECT tasks FROM demand)
    ) h
), stop AS MATERIALIZED (
    -- All that is wanted up to this turn is handed out.
    SELECT coalesce(
        (SELECT min(turn) - 1 FROM head WHERE bytes_before >= $11),
        (SELECT max(turn) FROM head HAVING count(*) = (SELECT tasks FROM demand)),
        (SELECT max(turn) FROM looked_at WHERE bytes_before < $11)) AS turn
), picked AS MATERIALIZED (
    -- Locked where it was seen: what has moved meanwhile is passed over.
    SELECT t.id, h.lane_id, h.returned, h.position, h.turn AS looked_at_turn,
           row_number() OVER (ORDER BY h.turn)::integer AS turn
    FROM head h
    CROSS JOIN LATERAL (
        SELECT t.id FROM fetchlock.open_task t
        WHERE t.state = 'ready' AND t.lane_id = h.lane_id AND t.returned = h.returned
          AND t.position = h.position AND t.shard = $1
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) t
    WHERE h.bytes_before < $11
-- </filtered>
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
        lock_token = fence.lock_token, locked_at = now(), lost_by = NULL, lost_token = NULL,
        lock_expires_at = now() + interval '1 millisecond'
            * ($6::bigint[])[array_position($2::integer[], t.lane_id)],
        -- The first lock starts it; `least` keeps what is earlier, and passes over nulls.
        deadline_at = least(t.deadline_at,
                            now() + interval '1 millisecond' * t.execution_timeout_ms)
    FROM owner, fence
    WHERE t.id = ANY (ARRAY(SELECT id FROM picked)) AND t.shard = $1
    RETURNING t.id, t.position, t.worker_id, t.available_at, t.retries, t.retries_set, t.attempt,
        t.failures, t.error_code, t.error_message, t.error_details, t.deadline_at, t.reported,
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
            ',"retries":', o.retries, ',"failures":', o.failures,
            CASE WHEN o.retries_set THEN ',"retriesSet":true' END,
            ',"availableAt":', to_json(o.available_at),
            ',"createdAt":', t.created_json,
            CASE WHEN t.is_bare THEN
                ',"businessKey":null,"processInstanceId":null,"activityId":null,'
                || '"traceparent":null'
            ELSE concat(
                ',"businessKey":', coalesce(to_json(t.business_key)::text, 'null'),
                ',"processInstanceId":', coalesce(to_json(t.process_instance_id)::text, 'null'),
                ',"activityId":', coalesce(to_json(t.activity_id)::text, 'null'),
                ',"traceparent":', coalesce(to_json(t.traceparent)::text, 'null')) END,
            CASE WHEN coalesce(o.error_message, o.error_code, o.error_details) IS NULL THEN
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
            ',"variableTypes":' || nullif(t.variable_types::text, '{}'),
            '}'), ',' ORDER BY o.turn) || ']' AS tasks_json
    FROM (
        -- <plain>
        SELECT *, row_number() OVER (ORDER BY ($3::integer[])[scan], position)::integer AS turn
        -- </plain>
        -- <filtered>
        SELECT *, row_number() OVER (
            ORDER BY ($3::integer[])[scan], CASE WHEN $14 THEN -position ELSE position END
        )::integer AS turn
        -- </filtered>
        FROM locked) o
    CROSS JOIN LATERAL (
        SELECT t.business_key, t.process_instance_id, t.activity_id, t.traceparent,
               to_json(t.created_at) AS created_json,
               coalesce(t.business_key, t.process_instance_id, t.activity_id, t.traceparent)
                   IS NULL AS is_bare,
               CASE WHEN o.reported THEN fetchlock.variables_of(t.id, t.variables, $1)
                    ELSE t.variables END AS variables,
               CASE WHEN o.reported THEN fetchlock.variable_types_of(t.id, t.variable_types, $1)
                    ELSE t.variable_types END AS variable_types
        FROM fetchlock.task t WHERE t.id = o.id AND t.shard = $1 LIMIT 1) t
    GROUP BY 1
)
SELECT told.waiters, told.counts, told.bodies, (SELECT count(*) FROM head)::integer AS seen,
       tip.lane_ids, tip.returned, tip.positions, tip.tasks
       -- <filtered>
       , stopped.lane_ids AS stopped_lane_ids, stopped.returned AS stopped_returned,
       stopped.positions AS stopped_positions,
       held.lane_ids AS held_lane_ids, held.returned AS held_returned,
       held.positions AS held_positions,
       NOT $14 AND (SELECT count(*) FROM looked_at) >= least(1 + (SELECT turn FROM stop), $15)
           AS has_more
       -- </filtered>
FROM (
    SELECT array_agg(waiter) AS waiters, array_agg(tasks::integer) AS counts,
           array_agg(tasks_json) AS bodies
    FROM told
) told, (
    SELECT array_agg(lane_id) AS lane_ids, array_agg(returned) AS returned,
           array_agg(position) AS positions, array_agg(tasks) AS tasks
    FROM (SELECT lane_id, returned, max(position) AS position, count(*)::integer AS tasks
          FROM picked GROUP BY lane_id, returned) p
-- <plain>
) tip;
-- </plain>
-- <filtered>
) tip, (
    SELECT array_agg(lane_id) AS lane_ids, array_agg(returned) AS returned,
           array_agg(position) AS positions
    FROM (SELECT lane_id, returned, max(position) AS position
          FROM looked_at WHERE turn <= (SELECT turn FROM stop) GROUP BY lane_id, returned) l
) stopped, (
    SELECT array_agg(lane_id) AS lane_ids, array_agg(returned) AS returned,
           array_agg(position) AS positions
    FROM (SELECT lane_id, returned, min(position) AS position
          FROM head
          WHERE bytes_before < $11 AND turn <> ALL (ARRAY(SELECT looked_at_turn FROM picked))
          GROUP BY lane_id, returned) h
) held;
-- </filtered>
