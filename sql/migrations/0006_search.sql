-- Searching open tasks by anything that is known of them.

-- A number that JSON may write in ways PostgreSQL cannot read: 1e-99999, or tens of thousands of
-- digits. No number beyond a double is ever stored, so that an exponent of thousands means next
-- to nothing, and what is cut off here is too. None may spoil a search among other tasks.
CREATE FUNCTION fetchlock.as_number(given text) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN given ~* 'e[+-]?0*[1-9]\d{3}' THEN 0
        WHEN length(given) < 400 THEN given::numeric
        ELSE (left(split_part(lower(given), 'e', 1), 400)
              || coalesce('e' || nullif(split_part(lower(given), 'e', 2), ''), ''))::numeric
    END
$$;

-- Whether a variable is what a search wants it to be. Values of different kinds are neither
-- equal nor in any order; an order has no meaning but for numbers and texts. Texts are in the
-- order of their code points, whatever language the database speaks. An instant is given where
-- the wanted text is a date: then a variable that is noted as one is compared in time, so that
-- offsets do not matter. What time PostgreSQL could not read stays a text.
CREATE FUNCTION fetchlock.is_wanted(
    own json, own_type text, operator text, wanted jsonb, instant timestamptz, ignores_case boolean
) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce(CASE operator
        WHEN 'eq' THEN c.sign = 0
        WHEN 'neq' THEN c.sign IS DISTINCT FROM 0
        WHEN 'gt' THEN c.sign > 0
        WHEN 'gteq' THEN c.sign >= 0
        WHEN 'lt' THEN c.sign < 0
        WHEN 'lteq' THEN c.sign <= 0
        WHEN 'like' THEN c.kind = 'string' AND c.own_text LIKE c.wanted_text
        WHEN 'notLike' THEN (c.kind = 'string' AND c.own_text LIKE c.wanted_text) IS NOT TRUE
    END, false)
    FROM (
        SELECT v.*, CASE
            WHEN v.kind <> jsonb_typeof(wanted) THEN NULL
            WHEN v.kind = 'null' THEN 0
            WHEN v.kind = 'boolean' THEN CASE WHEN v.own_text = v.wanted_text THEN 0 END
            WHEN v.kind = 'number' THEN
                (fetchlock.as_number(own #>> '{}') > (wanted #>> '{}')::numeric)::integer
                - (fetchlock.as_number(own #>> '{}') < (wanted #>> '{}')::numeric)::integer
            WHEN own_type = 'Date' AND instant IS NOT NULL
                 AND own #>> '{}' ~ '^\d{4}-\d\d-\d\dT[0-9:.]{12}[+-](0\d|1[0-5])\d\d$' THEN
                ((own #>> '{}')::timestamptz > instant)::integer
                - ((own #>> '{}')::timestamptz < instant)::integer
            ELSE (v.own_text > v.wanted_text)::integer - (v.own_text < v.wanted_text)::integer
        END AS sign
        FROM (
            SELECT json_typeof(own) AS kind,
                   CASE WHEN ignores_case THEN upper(own #>> '{}') ELSE own #>> '{}' END
                       COLLATE "C" AS own_text,
                   CASE WHEN ignores_case THEN upper(wanted #>> '{}') ELSE wanted #>> '{}' END
                       COLLATE "C" AS wanted_text
        ) v
    ) c
$$;

-- Whether variables meet all conditions [{"name", "operator", "value", "instant"?}, …]. Each
-- needs a variable of its name, also `neq` and `notLike`; where the case of names is ignored,
-- one of several is enough.
CREATE FUNCTION fetchlock.meets(
    variables json, types jsonb, conditions jsonb, ignores_case_of_names boolean,
    ignores_case_of_values boolean
) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT
        FROM (
            -- All variables are taken apart once, not once for each condition, which may be
            -- megabytes each time. Of a name that is written twice the last one counts.
            SELECT DISTINCT ON (c.place, v.key) c.*, v.key, v.value AS own
            FROM ROWS FROM (jsonb_to_recordset(conditions) AS (
                name text, operator text, value jsonb, instant timestamptz
            )) WITH ORDINALITY AS c (name, operator, value, instant, place)
            LEFT JOIN json_each(variables) WITH ORDINALITY AS v (key, value, place)
                ON CASE WHEN ignores_case_of_names THEN upper(v.key) ELSE v.key END
                   = CASE WHEN ignores_case_of_names THEN upper(c.name) ELSE c.name END
            ORDER BY c.place, v.key, v.place DESC
        ) c
        GROUP BY c.place
        HAVING NOT bool_or(c.own IS NOT NULL AND fetchlock.is_wanted(
            c.own, types -> c.key ->> 'type', c.operator,
            c.value, c.instant, coalesce(ignores_case_of_values, false)))
    )
$$;

-- The open tasks that pass filters, a JSON object; an absent member does not filter.
-- ids, topic, workerId, locked, notLocked, withRetriesLeft, noRetriesLeft, lockExpiresAfter,
-- lockExpiresBefore, activityIds, processInstanceIds, processDefinitionIds,
-- processDefinitionKeys, tenantIds, priorityMin, priorityMax, and of variables: conditions,
-- ignoresCaseOfNames, ignoresCaseOfValues.
--
-- The candidates are found by the best of four ways: by id, by process instance, among the
-- locked, or else by a walk along all open tasks. The walk takes a second for a million of them,
-- three where it has to look at their lanes (topic, definition, tenant, priority), more where it
-- has to read what stands with the task (activity, variables); statement_timeout bounds it.
-- One SELECT, so that PostgreSQL puts it in the place of the call, where its plan shows. Lanes
-- and tasks are looked up in the conditions, and not joined, so that nobody pays for what he
-- does not filter by.
CREATE FUNCTION fetchlock.matching(filters jsonb, of_shard smallint)
RETURNS TABLE (id uuid, lane_id integer, lock_expires_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT o.id, o.lane_id, CASE o.state WHEN 'locked' THEN o.lock_expires_at END
    FROM (
        SELECT g.*,
               CASE WHEN g.ids IS NOT NULL THEN 'ids'
                    WHEN g."processInstanceIds" IS NOT NULL THEN 'instances'
                    WHEN g.locked OR g."workerId" IS NOT NULL OR g."lockExpiresAfter" IS NOT NULL
                         OR g."lockExpiresBefore" IS NOT NULL THEN 'locked'
                    ELSE 'all' END AS way,
               coalesce(g.topic, g."processDefinitionIds"::text, g."processDefinitionKeys"::text,
                        g."tenantIds"::text, g."priorityMin"::text, g."priorityMax"::text)
                   IS NOT NULL AS is_of_lane,
               coalesce(g."activityIds"::text, g."processInstanceIds"::text, g.conditions::text)
                   IS NOT NULL AS is_of_task
        FROM jsonb_to_record(filters) AS g (
            ids text[], topic text, "workerId" text, locked boolean, "notLocked" boolean,
            "withRetriesLeft" boolean, "noRetriesLeft" boolean, "lockExpiresAfter" timestamptz,
            "lockExpiresBefore" timestamptz, "activityIds" text[], "processInstanceIds" text[],
            "processDefinitionIds" text[], "processDefinitionKeys" text[], "tenantIds" text[],
            "priorityMin" bigint, "priorityMax" bigint, conditions jsonb,
            "ignoresCaseOfNames" boolean, "ignoresCaseOfValues" boolean)
        -- Once, and not once more for each task.
        OFFSET 0
    ) f
    CROSS JOIN LATERAL (
        SELECT o.*
        FROM (SELECT DISTINCT fetchlock.as_id(i.id) AS id FROM unnest(f.ids) AS i (id)) i
        CROSS JOIN LATERAL (
            SELECT * FROM fetchlock.open_task o WHERE o.id = i.id AND o.shard = of_shard LIMIT 1) o
        WHERE f.way = 'ids'
        UNION ALL
        -- A task without a process instance is its own.
        SELECT o.*
        FROM (
            SELECT t.id
            FROM unnest(f."processInstanceIds") AS i (id)
            CROSS JOIN LATERAL (
                SELECT t.id FROM fetchlock.task t
                WHERE t.process_instance_id = i.id AND t.process_instance_id IS NOT NULL
                  AND t.shard = of_shard
                -- Looked up, and not merged with a walk along the whole index.
                OFFSET 0
            ) t
            UNION
            SELECT fetchlock.as_id(i.id) FROM unnest(f."processInstanceIds") AS i (id)
        ) i
        CROSS JOIN LATERAL (
            SELECT * FROM fetchlock.open_task o WHERE o.id = i.id AND o.shard = of_shard LIMIT 1) o
        WHERE f.way = 'instances'
        UNION ALL
        SELECT o.* FROM fetchlock.open_task o
        WHERE f.way = 'locked' AND o.state = 'locked' AND o.shard = of_shard
          AND o.lock_expires_at > coalesce(f."lockExpiresAfter", '-infinity')
          AND o.lock_expires_at < coalesce(f."lockExpiresBefore", 'infinity')
        UNION ALL
        SELECT o.* FROM fetchlock.open_task o
        WHERE f.way = 'all' AND o.shard = of_shard
          AND o.id >= '00000000-0000-0000-0000-000000000000'
          AND o.id <= 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    ) o
    WHERE (f."workerId" IS NULL OR o.worker_id = f."workerId")
      AND (f.locked IS NOT TRUE OR o.state = 'locked' AND o.lock_expires_at > now())
      AND (f."notLocked" IS NOT TRUE OR o.state <> 'locked' OR o.lock_expires_at <= now())
      AND (f."withRetriesLeft" IS NOT TRUE OR o.state <> 'failed' AND o.retries > 0)
      AND (f."noRetriesLeft" IS NOT TRUE OR o.state = 'failed' OR o.retries <= 0)
      AND (f."lockExpiresAfter" IS NULL
           OR o.state = 'locked' AND o.lock_expires_at > f."lockExpiresAfter")
      AND (f."lockExpiresBefore" IS NULL
           OR o.state = 'locked' AND o.lock_expires_at < f."lockExpiresBefore")
      AND (NOT f.is_of_lane OR (
          SELECT (f.topic IS NULL OR l.topic = f.topic)
             AND (f."processDefinitionIds" IS NULL
                  OR nullif(l.process_definition_id, '') = ANY (f."processDefinitionIds"))
             AND (f."processDefinitionKeys" IS NULL
                  OR nullif(l.process_definition_key, '') = ANY (f."processDefinitionKeys"))
             AND (f."tenantIds" IS NULL OR nullif(l.tenant_id, '') = ANY (f."tenantIds"))
             AND (f."priorityMin" IS NULL OR l.priority >= f."priorityMin")
             AND (f."priorityMax" IS NULL OR l.priority <= f."priorityMax")
          FROM fetchlock.lane l WHERE l.lane_id = o.lane_id AND l.shard = of_shard LIMIT 1))
      AND (NOT f.is_of_task OR (
          SELECT (f."activityIds" IS NULL OR t.activity_id = ANY (f."activityIds"))
             AND (f."processInstanceIds" IS NULL
                  OR coalesce(t.process_instance_id, t.id::text) = ANY (f."processInstanceIds"))
             AND (f.conditions IS NULL OR fetchlock.meets(
                 coalesce(p.variables, t.variables), coalesce(p.variable_types, t.variable_types),
                 f.conditions, f."ignoresCaseOfNames", f."ignoresCaseOfValues"))
          FROM fetchlock.task t
          LEFT JOIN LATERAL (
              SELECT p.variables, p.variable_types FROM fetchlock.progress p
              WHERE p.id = t.id AND p.shard = of_shard AND o.reported LIMIT 1
          ) p ON true
          WHERE t.id = o.id AND t.shard = of_shard LIMIT 1))
$$;
