-- The three tables that do the work, and the lanes that order it.
--
-- task       what was asked. Written once, never updated, dropped by partition.
-- open_task  one small row per unfinished task: the only table that is updated.
-- outcome    how a task ended. Append-only, partitioned like task.
--
-- A task is in exactly one state by construction: it has one row in open_task,
-- whose state column says which, or one in outcome. The payload stands apart
-- because PostgreSQL would write it anew with every lock.
--
-- Every table carries `shard`, last in its unique keys and constant in every
-- statement: the same SQL then runs where the rows are spread over several
-- databases. There is no foreign key to a hot row (each check would lock it),
-- no trigger, and no row that every statement updates.

CREATE TYPE fetchlock.open_state AS ENUM ('delayed', 'ready', 'locked', 'failed');
CREATE TYPE fetchlock.outcome_state AS ENUM ('completed', 'bpmn_error', 'cancelled');

-- One FIFO. A subscription is a set of lanes, so that a filter never scans past
-- tasks it may not take, and strict priority is the order of visiting them.
CREATE TABLE fetchlock.lane (
    lane_id               integer  GENERATED ALWAYS AS IDENTITY,
    priority              integer  NOT NULL,
    topic                 text     NOT NULL,
    tenant_id             text     NOT NULL DEFAULT '',
    process_definition_id text     NOT NULL DEFAULT '',
    shard                 smallint NOT NULL,
    PRIMARY KEY (lane_id, shard),
    UNIQUE (topic, tenant_id, process_definition_id, priority, shard)
) WITH (
    -- Analysed from its first row on: while it is unknown, both indexes cost the
    -- same by their `shard` alone, and the planner walks either for either look-up.
    autovacuum_analyze_threshold = 1
);

-- A task's place in its lane. A sequence, because it is the one counter of
-- PostgreSQL's that transactions do not queue for.
CREATE SEQUENCE fetchlock.position AS bigint;

CREATE TABLE fetchlock.task (
    id                     uuid        NOT NULL,
    created_at             timestamptz NOT NULL DEFAULT now(),
    lane_id                integer     NOT NULL,
    shard                  smallint    NOT NULL,
    business_key           text,
    process_instance_id    text,
    process_definition_key text,
    activity_id            text,
    traceparent            text,
    -- `json`, not `jsonb`: kept to the letter, so that 1.0 stays 1.0, and no number
    -- the broker has let pass is out of range here.
    variables              json        NOT NULL,
    PRIMARY KEY (id, shard)
) PARTITION BY RANGE (id);
CREATE INDEX task_business_key ON fetchlock.task (business_key, id) WHERE business_key IS NOT NULL;
CREATE INDEX task_process_instance ON fetchlock.task (process_instance_id, id)
    WHERE process_instance_id IS NOT NULL;

CREATE TABLE fetchlock.open_task (
    id              uuid                 NOT NULL,
    position        bigint               NOT NULL,
    available_at    timestamptz          NOT NULL,
    locked_at       timestamptz,
    lock_expires_at timestamptz,
    lock_token      uuid,
    lane_id         integer              NOT NULL,
    state           fetchlock.open_state NOT NULL,
    retries         integer              NOT NULL,
    attempt         integer              NOT NULL DEFAULT 0,
    failures        integer              NOT NULL DEFAULT 0,
    expiries        integer              NOT NULL DEFAULT 0,
    -- Bytes of the variables: a claim stops before its reply outgrows memory.
    size_bytes      integer              NOT NULL,
    shard           smallint             NOT NULL,
    -- Left the order of creation once (it was delivered, or delayed): a scan of
    -- the fresh tasks has gone past it, so it is looked for on its own.
    returned        boolean              NOT NULL,
    worker_id       text,
    error_code      text,
    error_message   text,
    error_details   text,
    PRIMARY KEY (id, shard),
    CONSTRAINT locked_means_held CHECK (
        (state = 'locked') = (worker_id IS NOT NULL)
        AND (worker_id IS NULL) = (lock_token IS NULL)
        AND (worker_id IS NULL) = (lock_expires_at IS NULL)
        AND (worker_id IS NULL) = (locked_at IS NULL)
    )
) WITH (
    -- Rows live for milliseconds to minutes; vacuum has to keep pace with them.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- Literal predicates: a statement that says `state = $1` could not use these.
CREATE INDEX open_task_ready ON fetchlock.open_task (lane_id, returned, position)
    WHERE state = 'ready';
CREATE INDEX open_task_locked ON fetchlock.open_task (lock_expires_at) WHERE state = 'locked';
CREATE INDEX open_task_delayed ON fetchlock.open_task (available_at) WHERE state = 'delayed';
CREATE INDEX open_task_failed ON fetchlock.open_task (id) WHERE state = 'failed';

CREATE TABLE fetchlock.outcome (
    id            uuid                    NOT NULL,
    finished_at   timestamptz             NOT NULL DEFAULT now(),
    locked_at     timestamptz,
    lock_token    uuid,
    lane_id       integer                 NOT NULL,
    state         fetchlock.outcome_state NOT NULL,
    retries       integer                 NOT NULL,
    attempt       integer                 NOT NULL,
    failures      integer                 NOT NULL,
    expiries      integer                 NOT NULL,
    shard         smallint                NOT NULL,
    worker_id     text,
    error_code    text,
    error_message text,
    error_details text,
    result        json,
    PRIMARY KEY (id, shard)
) PARTITION BY RANGE (id);

-- The first task that a caller's own key stands for. `fingerprint` tells a
-- request said again from another request with the same key.
CREATE TABLE fetchlock.unique_key (
    created_at  timestamptz NOT NULL DEFAULT now(),
    task_id     uuid        NOT NULL,
    shard       smallint    NOT NULL,
    tenant_id   text        NOT NULL DEFAULT '',
    key         text        NOT NULL,
    fingerprint text        NOT NULL,
    PRIMARY KEY (key, tenant_id, shard)
);

-- An id as callers write it, or null: any text may stand where an id should.
-- `translate` because a regular expression takes six times as long.
CREATE FUNCTION fetchlock.as_id(given text) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN translate(given, '123456789abcdefABCDEF', '000000000000000000000')
                     = '00000000-0000-0000-0000-000000000000' THEN given::uuid END
$$;

-- The first id (UUIDv7, RFC 9562) of an instant: a bound of a partition.
CREATE FUNCTION fetchlock.first_id(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
$$;

-- Makes the weekly partitions that cover [since, until]. Weeks, because a hot
-- statement locks every partition it might read, and days would be too many.
-- A partition is made aside and attached, which does not stop the others; two
-- brokers that make the same one at once both succeed.
CREATE FUNCTION fetchlock.make_partitions(since timestamptz, until timestamptz) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    week   timestamptz := date_trunc('week', since AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    parent text;
    child  text;
    made   integer := 0;
BEGIN
    WHILE week <= until LOOP
        FOREACH parent IN ARRAY ARRAY['task', 'outcome'] LOOP
            child := parent || to_char(week AT TIME ZONE 'UTC', '_YYYY_MM_DD');
            IF to_regclass('fetchlock.' || quote_ident(child)) IS NULL THEN
                BEGIN
                    EXECUTE format('CREATE TABLE fetchlock.%I (LIKE fetchlock.%I INCLUDING ALL)',
                                   child, parent);
                    EXECUTE format(
                        'ALTER TABLE fetchlock.%I ATTACH PARTITION fetchlock.%I '
                        'FOR VALUES FROM (%L) TO (%L)', parent, child,
                        fetchlock.first_id(week), fetchlock.first_id(week + interval '7 days'));
                    made := made + 1;
                EXCEPTION WHEN duplicate_table OR unique_violation THEN
                    NULL;  -- The other broker was faster.
                END;
            END IF;
        END LOOP;
        week := week + interval '7 days';
    END LOOP;
    RETURN made;
END
$$;

SELECT fetchlock.make_partitions(now() - interval '7 days', now() + interval '28 days');
