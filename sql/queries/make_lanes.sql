-- make_lanes: make the lanes that a create found missing.
-- $1 shard smallint, $2 requests json[], $3 topic_length_max integer, $4 priorities_max bigint,
-- $5 lanes_max bigint
-- A lane that would break a limit is not made; the create then refuses its tasks.
-- Two brokers at once may overshoot by what each of them makes: the limit is there
-- to stop a mistake, not to be a count.
WITH wanted AS (
    SELECT DISTINCT f.topic, coalesce(f."tenantId", '') AS tenant_id,
           coalesce(f."processDefinitionId", '') AS definition_id,
           coalesce(f."processDefinitionKey", '') AS definition_key,
           coalesce(f."processDefinitionVersionTag", '') AS version_tag,
           coalesce(f.priority, 0) AS priority
    FROM unnest($2::json[]) AS r (body)
    CROSS JOIN LATERAL json_to_recordset(r.body -> 'tasks')
        AS f (topic text, priority integer, "tenantId" text, "processDefinitionId" text,
              "processDefinitionKey" text, "processDefinitionVersionTag" text)
    WHERE char_length(f.topic) <= $3
), judged AS (
    SELECT w.*, p.taken, p.known, p.lanes,
           dense_rank() OVER (PARTITION BY w.topic, p.known ORDER BY w.priority) AS nth
    FROM wanted w
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT l.priority) AS taken, count(*) AS lanes,
               coalesce(bool_or(l.priority = w.priority), false) AS known,
               coalesce(bool_or(
                   l.priority = w.priority AND l.variant = fetchlock.lane_variant(
                       w.tenant_id, w.definition_id, w.definition_key, w.version_tag)
               ), false) AS is_made
        FROM fetchlock.lane l
        WHERE l.topic = w.topic AND l.shard = $1
    ) p
    WHERE NOT p.is_made
), allowed AS (
    SELECT *, row_number() OVER (
        PARTITION BY topic
        ORDER BY tenant_id, definition_id, definition_key, version_tag, priority) AS nth_lane
    FROM judged
    WHERE known OR taken + nth <= $4
)
INSERT INTO fetchlock.lane (
    topic, tenant_id, process_definition_id, process_definition_key,
    process_definition_version_tag, priority, shard)
SELECT topic, tenant_id, definition_id, definition_key, version_tag, priority, $1 FROM allowed
WHERE lanes + nth_lane <= $5
-- Sorted, so that two brokers that make the same lanes wait for each other in one order.
ORDER BY topic, tenant_id, definition_id, definition_key, version_tag, priority
ON CONFLICT DO NOTHING;
