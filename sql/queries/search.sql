-- search: the open tasks that match, in the wanted order, without their variables.
-- $1 shard smallint, $2 filters jsonb, $3 sorts text[], $4 descending boolean[],
-- $5 first_result bigint, $6 max_results bigint
-- The filters are those of fetchlock.matching. Of the sorts, up to eight names, the first
-- counts most; what is then still equal is in the order of creation. As is PostgreSQL's use, what
-- is absent comes last, and where the order is descending first.
-- All that match are found and sorted before the page is cut: see fetchlock.matching for what
-- that costs. Error texts are cut, so that a page of ten thousand failures fits into memory.
WITH page AS MATERIALIZED (
    SELECT ARRAY(
        SELECT m.id
        FROM fetchlock.matching($2, $1) m
        CROSS JOIN LATERAL (
            -- Texts that are in the order of what they stand for.
            SELECT ARRAY(
                SELECT CASE s.name
                    WHEN 'id' THEN m.id::text
                    WHEN 'lockExpirationTime' THEN to_char(m.lock_expires_at, 'YYYYMMDDHH24MISSUS')
                    WHEN 'taskPriority' THEN (
                        SELECT lpad((l.priority + 2147483648)::text, 10, '0') FROM fetchlock.lane l
                        WHERE l.lane_id = m.lane_id AND l.shard = $1 LIMIT 1)
                    WHEN 'processDefinitionId' THEN (
                        SELECT nullif(l.process_definition_id, '') FROM fetchlock.lane l
                        WHERE l.lane_id = m.lane_id AND l.shard = $1 LIMIT 1)
                    WHEN 'processDefinitionKey' THEN (
                        SELECT nullif(l.process_definition_key, '') FROM fetchlock.lane l
                        WHERE l.lane_id = m.lane_id AND l.shard = $1 LIMIT 1)
                    WHEN 'tenantId' THEN (
                        SELECT nullif(l.tenant_id, '') FROM fetchlock.lane l
                        WHERE l.lane_id = m.lane_id AND l.shard = $1 LIMIT 1)
                    WHEN 'processInstanceId' THEN (
                        SELECT coalesce(t.process_instance_id, t.id::text) FROM fetchlock.task t
                        WHERE t.id = m.id AND t.shard = $1 LIMIT 1)
                    WHEN 'createTime' THEN (
                        SELECT to_char(t.created_at, 'YYYYMMDDHH24MISSUS') FROM fetchlock.task t
                        WHERE t.id = m.id AND t.shard = $1 LIMIT 1)
                END COLLATE "C"
                FROM unnest($3::text[]) AS s (name)
            ) AS keys
            -- Once a task, and not once for each level.
            OFFSET 0
        ) k
        ORDER BY
            CASE WHEN NOT ($4::boolean[])[1] THEN k.keys[1] END,
            CASE WHEN ($4::boolean[])[1] THEN k.keys[1] END DESC,
            CASE WHEN NOT ($4::boolean[])[2] THEN k.keys[2] END,
            CASE WHEN ($4::boolean[])[2] THEN k.keys[2] END DESC,
            CASE WHEN NOT ($4::boolean[])[3] THEN k.keys[3] END,
            CASE WHEN ($4::boolean[])[3] THEN k.keys[3] END DESC,
            CASE WHEN NOT ($4::boolean[])[4] THEN k.keys[4] END,
            CASE WHEN ($4::boolean[])[4] THEN k.keys[4] END DESC,
            CASE WHEN NOT ($4::boolean[])[5] THEN k.keys[5] END,
            CASE WHEN ($4::boolean[])[5] THEN k.keys[5] END DESC,
            CASE WHEN NOT ($4::boolean[])[6] THEN k.keys[6] END,
            CASE WHEN ($4::boolean[])[6] THEN k.keys[6] END DESC,
            CASE WHEN NOT ($4::boolean[])[7] THEN k.keys[7] END,
            CASE WHEN ($4::boolean[])[7] THEN k.keys[7] END DESC,
            CASE WHEN NOT ($4::boolean[])[8] THEN k.keys[8] END,
            CASE WHEN ($4::boolean[])[8] THEN k.keys[8] END DESC,
            m.id
        OFFSET $5 LIMIT $6
    ) AS ids
)
SELECT i.id, concat(left(json_build_object(
    'id', i.id, 'topic', l.topic,
    'state', CASE WHEN o.state IN ('delayed', 'ready') THEN 'CREATED'
                  ELSE upper(o.state::text) END,
    'priority', l.priority, 'businessKey', t.business_key,
    'processInstanceId', t.process_instance_id,
    'processDefinitionId', nullif(l.process_definition_id, ''),
    'processDefinitionKey', nullif(l.process_definition_key, ''),
    'processDefinitionVersionTag', nullif(l.process_definition_version_tag, ''),
    'activityId', t.activity_id, 'tenantId', nullif(l.tenant_id, ''),
    'retries', o.retries, 'failures', o.failures,
    'workerId', o.worker_id,
    'lockExpiresAt', CASE o.state WHEN 'locked' THEN o.lock_expires_at END,
    'createdAt', t.created_at,
    'errorMessage', left(o.error_message, 666)
)::text, -1),
    CASE WHEN o.retries_set THEN ',"retriesSet":true' END, '}') AS task
FROM page
CROSS JOIN LATERAL unnest(page.ids) WITH ORDINALITY AS i (id, place)
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.open_task o WHERE o.id = i.id AND o.shard = $1 LIMIT 1) o
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.task t WHERE t.id = i.id AND t.shard = $1 LIMIT 1) t
CROSS JOIN LATERAL (
    SELECT * FROM fetchlock.lane l WHERE l.lane_id = o.lane_id AND l.shard = $1 LIMIT 1) l
ORDER BY i.place;
