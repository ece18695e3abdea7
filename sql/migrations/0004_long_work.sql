-- What long work needs: news of it, its log, hand-overs, deadlines, cancellation.
--
-- progress  what was last said of a task while it was open: one row a task that
--           was ever spoken of, and none for the others.
-- log_line  its log, append-only, numbered per task.
-- callback  what an attempt that was handed over had by itself, and what the
--           outside party said of it.
--
-- All three are written under the row lock of the task in open_task, which orders
-- them, and are partitioned and dropped as task is.

ALTER TABLE fetchlock.open_task
    -- Of the two timeouts the one from the first lock becomes an instant only then.
    ADD COLUMN execution_timeout_ms bigint,
    ADD COLUMN total_expires_at     timestamptz,
    -- The earlier of the two, as far as it is known.
    ADD COLUMN deadline_at          timestamptz,
    -- Has a row in progress: a fetch looks for that only where there is one.
    ADD COLUMN reported             boolean NOT NULL DEFAULT false,
    -- Its callback is recorded and still to be applied.
    ADD COLUMN called_back          boolean NOT NULL DEFAULT false,
    ADD COLUMN cancel_requested     boolean NOT NULL DEFAULT false,
    ADD COLUMN cancel_reason        text,
    DROP CONSTRAINT locked_means_held,
    -- A task that awaits its callback has no worker, but keeps the token and the time
    -- of the lock it was handed over under: they are the callback's now.
    ADD CONSTRAINT locked_means_held CHECK (
        (state = 'locked') = (worker_id IS NOT NULL)
        AND (state IN ('locked', 'awaiting')) = (lock_token IS NOT NULL)
        AND (lock_token IS NULL) = (lock_expires_at IS NULL)
        AND (lock_token IS NULL) = (locked_at IS NULL)
    );

CREATE INDEX open_task_awaiting ON fetchlock.open_task (lock_expires_at)
    WHERE state = 'awaiting';
CREATE INDEX open_task_deadline ON fetchlock.open_task (deadline_at)
    WHERE deadline_at IS NOT NULL AND state <> 'failed';

-- Few of the locks that run out, so that a storm of the others is not searched for them.
CREATE INDEX open_task_let_go ON fetchlock.open_task (lock_expires_at)
    WHERE state = 'locked' AND (cancel_requested OR called_back);

CREATE TABLE fetchlock.progress (
    id           uuid     NOT NULL,
    -- Of percent and subtext.
    updated_at   timestamptz,
    -- The last news that were numbered, and under which lock: see heartbeat.
    lock_token   uuid,
    sequence     bigint,
    percent      double precision,
    -- How many lines the log has, and how many came in the minute that began at minute_at.
    log_lines    integer  NOT NULL DEFAULT 0,
    minute_lines integer  NOT NULL DEFAULT 0,
    minute_at    timestamptz,
    shard        smallint NOT NULL,
    subtext      text,
    checkpoint   json,
    PRIMARY KEY (id, shard)
) PARTITION BY RANGE (id);

CREATE TABLE fetchlock.log_line (
    id        uuid        NOT NULL,
    logged_at timestamptz NOT NULL DEFAULT now(),
    number    integer     NOT NULL,
    shard     smallint    NOT NULL,
    line      text        NOT NULL,
    PRIMARY KEY (id, number, shard)
) PARTITION BY RANGE (id);

CREATE TABLE fetchlock.callback (
    id            uuid        NOT NULL,
    -- The lock that was, or is to be, handed over: one callback for each.
    lock_token    uuid        NOT NULL,
    expires_at    timestamptz NOT NULL,
    received_at   timestamptz,
    shard         smallint    NOT NULL,
    is_success    boolean,
    -- Who handed it over.
    worker_id     text,
    error_code    text,
    error_message text,
    own_result    json,
    output        json,
    PRIMARY KEY (id, lock_token, shard)
) PARTITION BY RANGE (id);

-- What operators wish of a worker. No row, no wish.
CREATE TABLE fetchlock.worker (
    drain_requested_at timestamptz NOT NULL DEFAULT now(),
    shard              smallint    NOT NULL,
    worker_id          text        NOT NULL,
    PRIMARY KEY (worker_id, shard)
);

-- What callback URLs are signed with. The newest signs, all are accepted.
-- The database makes the key, so that all brokers have the same without being told;
-- gen_random_uuid draws from the strong random source of the system.
CREATE TABLE fetchlock.signing_key (
    key_id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    key        bytea       NOT NULL DEFAULT sha256(
        (gen_random_uuid()::text || gen_random_uuid() || gen_random_uuid())::bytea)
);
INSERT INTO fetchlock.signing_key DEFAULT VALUES;

-- How long a task that failed so often before waits for its next try: exponential
-- with full jitter, each length up to the bound equally likely, so that tasks that
-- failed together do not come back together.
CREATE FUNCTION fetchlock.retry_wait(
    failures integer, base_ms double precision, factor double precision, cap_ms double precision
) RETURNS interval
LANGUAGE sql VOLATILE AS $$
    SELECT interval '1 millisecond'
           * floor(random() * least(cap_ms, base_ms * factor ^ least(failures, 64)))
$$;

-- Two JSON objects as one; of equal keys the second's value counts. On `json`, not
-- `jsonb`, so that every number stays as it was written.
CREATE FUNCTION fetchlock.merged(own json, theirs json) RETURNS json
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN own IS NULL OR own::text = '{}' THEN coalesce(theirs, '{}')
        ELSE (
            SELECT coalesce(json_object_agg(m.key, m.value), '{}')
            FROM (
                -- The keys once, as a sorted map: to look into `theirs` for each would read all
                -- of it each time.
                SELECT o.key, o.value
                FROM json_each(own) o, (
                    SELECT coalesce(jsonb_object_agg(k.key, true), '{}') AS map
                    FROM json_object_keys(theirs) AS k (key)
                ) keys
                WHERE NOT keys.map ? o.key
                UNION ALL
                SELECT key, value FROM json_each(theirs)
            ) m
        )
    END
$$;

-- A number from 0 to 100 that JSON may write in ways no double can read: 1e-400, or
-- hundreds of digits. Those are nothing, or are cut; none may cost a heartbeat its locks.
CREATE FUNCTION fetchlock.as_percent(given json) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN given IS NULL THEN NULL
        WHEN given::text !~* 'e' THEN left(given::text, 40)::double precision
        WHEN length(given::text) < 40 AND given::text !~* 'e-?\d{3}'
            THEN given::text::double precision
        ELSE 0
    END
$$;

-- The members of a task that come from its progress. A function, because a fetch would
-- otherwise pay for all partitions of progress though hardly any task has a row there.
CREATE FUNCTION fetchlock.reported(task_id uuid, of_shard smallint) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT concat(
        '"progress":',
        CASE WHEN p.updated_at IS NULL THEN 'null' ELSE json_build_object(
            'percent', p.percent, 'subtext', nullif(p.subtext, ''), 'updatedAt', p.updated_at)::text END,
        CASE WHEN p.checkpoint IS NOT NULL THEN ',"checkpoint":' || p.checkpoint END)
    FROM fetchlock.progress p
    WHERE p.id = task_id AND p.shard = of_shard
$$;

-- As before, for the new tables too.
CREATE OR REPLACE FUNCTION fetchlock.make_partitions(since timestamptz, until timestamptz)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    week   timestamptz := date_trunc('week', since AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    parent text;
    child  text;
    made   integer := 0;
BEGIN
    WHILE week <= until LOOP
        FOREACH parent IN ARRAY ARRAY['task', 'outcome', 'progress', 'log_line', 'callback'] LOOP
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

-- Every week there is a task of must be covered, back to the oldest.
SELECT fetchlock.make_partitions(
    least(now() - interval '7 days', (SELECT created_at FROM fetchlock.task ORDER BY id LIMIT 1)),
    now() + interval '28 days');
