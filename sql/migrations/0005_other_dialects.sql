-- What workers of other brokers are used to: tenants, definitions by key and version tag,
-- variables that are set while a task is open, typed values, and work that is accepted after
-- its lock ran out. Rewrites the rows of tasks that have a processDefinitionKey, finished ones
-- included.

-- All at once and first, so that whoever still works waits here, and not halfway.
LOCK TABLE fetchlock.task, fetchlock.open_task, fetchlock.outcome, fetchlock.lane
    IN ACCESS EXCLUSIVE MODE;

-- A lane by everything but its topic and priority, short enough for an index whatever the names.
-- Each is hashed by itself, so that no two sets of names run together; most lanes have none.
CREATE FUNCTION fetchlock.lane_variant(
    tenant_id text, process_definition_id text, process_definition_key text, version_tag text
) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN tenant_id = '' AND process_definition_id = '' AND process_definition_key = ''
             AND version_tag = '' THEN ''
        ELSE md5(md5(tenant_id) || md5(process_definition_id) || md5(process_definition_key)
                 || md5(version_tag))
    END
$$;

ALTER TABLE fetchlock.lane
    ADD COLUMN process_definition_key text NOT NULL DEFAULT '',
    ADD COLUMN process_definition_version_tag text NOT NULL DEFAULT '';
ALTER TABLE fetchlock.lane
    DROP CONSTRAINT lane_topic_tenant_id_process_definition_id_priority_shard_key,
    ADD COLUMN variant text NOT NULL GENERATED ALWAYS AS (fetchlock.lane_variant(
        tenant_id, process_definition_id, process_definition_key, process_definition_version_tag
    )) STORED,
    ADD UNIQUE (topic, variant, priority, shard);

-- The key of a definition was the task's own until now; a fetch that asks for it needs lanes.
INSERT INTO fetchlock.lane (
    priority, topic, tenant_id, process_definition_id, process_definition_key, shard)
SELECT DISTINCT l.priority, l.topic, l.tenant_id, l.process_definition_id,
       t.process_definition_key, l.shard
FROM fetchlock.task t JOIN fetchlock.lane l USING (lane_id, shard)
WHERE t.process_definition_key <> '';

WITH moved AS MATERIALIZED (
    SELECT t.id, n.lane_id, t.shard
    FROM fetchlock.task t
    JOIN fetchlock.lane l USING (lane_id, shard)
    JOIN fetchlock.lane n USING (topic, priority, tenant_id, process_definition_id, shard)
    WHERE t.process_definition_key <> '' AND n.process_definition_key = t.process_definition_key
), asked AS (
    UPDATE fetchlock.task t SET lane_id = m.lane_id
    FROM moved m WHERE (t.id, t.shard) = (m.id, m.shard)
), opened AS (
    UPDATE fetchlock.open_task t SET lane_id = m.lane_id, returned = true
    FROM moved m WHERE (t.id, t.shard) = (m.id, m.shard)
)
UPDATE fetchlock.outcome t SET lane_id = m.lane_id
FROM moved m WHERE (t.id, t.shard) = (m.id, m.shard);

-- The types of variables are notes beside the plain JSON, for those only that it does not show:
-- {name: {"type", "valueInfo"?}}.
ALTER TABLE fetchlock.task
    DROP COLUMN process_definition_key,
    ADD COLUMN variable_types jsonb;
ALTER TABLE fetchlock.outcome ADD COLUMN result_types jsonb;

-- Where variables were set since the task was created: all of them, as they are now.
ALTER TABLE fetchlock.progress
    ADD COLUMN variables json,
    ADD COLUMN variable_types jsonb;

ALTER TABLE fetchlock.open_task
    -- Whose lock ran out last, until somebody takes the task or it moves otherwise.
    ADD COLUMN lost_token  uuid,
    ADD COLUMN lost_by     text,
    -- Somebody said how many retries it has: they are more than the broker's default.
    ADD COLUMN retries_set boolean NOT NULL DEFAULT false;

-- What operators wish of a topic. No row, no wish.
CREATE TABLE fetchlock.topic (
    shard        smallint NOT NULL,
    accepts_late boolean,
    topic        text     NOT NULL,
    PRIMARY KEY (topic, shard)
);

-- Whether work is still welcome whose lock has run out. The topic says it before the request.
CREATE FUNCTION fetchlock.accepts_late(of_lane_id integer, if_unsaid boolean, of_shard smallint)
RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT p.accepts_late
        FROM fetchlock.lane l
        JOIN fetchlock.topic p ON p.topic = l.topic AND p.shard = l.shard
        WHERE l.lane_id = of_lane_id AND l.shard = of_shard
    ), if_unsaid, false)
$$;

-- Whether a worker may end an attempt: it holds the lock, or was the last to hold it, nobody
-- has taken the task since, and late work is welcome.
CREATE FUNCTION fetchlock.may_end(
    t fetchlock.open_task, worker_id text, lock_token text, accepts_late boolean
) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT CASE t.state
        WHEN 'locked' THEN
            t.worker_id = $2 AND ($3 IS NULL OR t.lock_token::text = $3) AND NOT t.called_back
            AND (t.lock_expires_at > now() OR fetchlock.accepts_late(t.lane_id, $4, t.shard))
        WHEN 'ready' THEN
            t.lost_by = $2 AND ($3 IS NULL OR t.lost_token::text = $3)
            AND fetchlock.accepts_late(t.lane_id, $4, t.shard)
        ELSE false
    END
$$;

-- A JSON object without some of its members.
CREATE FUNCTION fetchlock.without(own json, names text[]) RETURNS json
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN cardinality(names) = 0 THEN own ELSE (
        SELECT coalesce(json_object_agg(o.key, o.value), '{}')
        FROM json_each(own) o, (
            -- As a sorted map: there may be a thousand names, and a hundred thousand members.
            SELECT jsonb_object_agg(n.name, true) AS map FROM unnest(names) AS n (name)
        ) gone
        WHERE NOT gone.map ? o.key
    ) END
$$;

-- The notes of variables after some were set, with notes of their own or none, and others removed.
CREATE FUNCTION fetchlock.noted(own jsonb, given json, types jsonb, deletions text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN own IS NULL OR own = '{}' THEN coalesce(types, '{}') ELSE (
        SELECT coalesce(jsonb_object_agg(n.key, n.value), '{}')
        FROM jsonb_each(own) n, (
            -- The names once, as a sorted map: see merged.
            SELECT coalesce(jsonb_object_agg(g.name, true), '{}') AS map
            FROM (SELECT json_object_keys(given) UNION ALL SELECT unnest(deletions)) AS g (name)
        ) gone
        WHERE NOT gone.map ? n.key
    ) || coalesce(types, '{}') END
$$;

-- Sets and removes variables of an open task, whose row the caller has locked, and answers how
-- many bytes they have now. Volatile also in what it reads: it must find what others committed
-- while the caller waited for that lock.
CREATE FUNCTION fetchlock.set_variables(
    task_id uuid, given json, types jsonb, deletions text[], of_shard smallint
) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    INSERT INTO fetchlock.progress AS p (id, shard, variables, variable_types)
    SELECT t.id, t.shard, fetchlock.merged(fetchlock.without(t.variables, deletions), given),
           fetchlock.noted(t.variable_types, given, types, deletions)
    FROM fetchlock.task t WHERE t.id = task_id AND t.shard = of_shard
    ON CONFLICT (id, shard) DO UPDATE
    SET variables = CASE WHEN p.variables IS NULL THEN excluded.variables
            ELSE fetchlock.merged(fetchlock.without(p.variables, deletions), given) END,
        variable_types = CASE WHEN p.variables IS NULL THEN excluded.variable_types
            ELSE fetchlock.noted(p.variable_types, given, types, deletions) END
    RETURNING octet_length(p.variables::text) + octet_length(p.variable_types::text)
$$;

-- The variables of a task that has reported, and the notes of their types. Functions, because
-- hardly any task has a row in progress; volatile, because what was set before a fetch locked
-- the task may be younger than that statement's snapshot.
CREATE FUNCTION fetchlock.variables_of(task_id uuid, at_first json, of_shard smallint) RETURNS json
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT p.variables FROM fetchlock.progress p
                     WHERE p.id = task_id AND p.shard = of_shard), at_first)
$$;
CREATE FUNCTION fetchlock.variable_types_of(task_id uuid, at_first jsonb, of_shard smallint)
RETURNS jsonb
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT p.variable_types FROM fetchlock.progress p
                     WHERE p.id = task_id AND p.shard = of_shard), at_first)
$$;
