-- What the broker's promise needs of a database, and nothing else.
--
-- The payload is written once and outlives the work; a small row says that a task
-- is ready or whose it is; an outcome says for good who did it and when. A lock
-- has an owner, a token and an expiry, so that a dead worker's tasks come back and
-- an old attempt can do nothing.
--
-- Two tables for what the broker keeps in one, `open_task`, with a state: a fifth
-- faster where these are the only states, as here. Left out is what no drain
-- needs: priorities, delays, retries, incidents, partitions, ids made elsewhere.

DROP SCHEMA IF EXISTS fetchlock_limit CASCADE;
CREATE SCHEMA fetchlock_limit;

CREATE TABLE fetchlock_limit.task (
    id         bigint      GENERATED ALWAYS AS IDENTITY (CACHE 500) PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    topic      integer     NOT NULL,
    payload    text        NOT NULL
);

CREATE TABLE fetchlock_limit.ready (
    id      bigint  NOT NULL,
    topic   integer NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, id)
);

CREATE TABLE fetchlock_limit.locked (
    id              bigint      PRIMARY KEY,
    lock_expires_at timestamptz NOT NULL,
    lock_token      uuid        NOT NULL,
    topic           integer     NOT NULL,
    attempt         integer     NOT NULL,
    worker_id       text        NOT NULL
);
-- Without it nobody finds the tasks of a dead worker.
CREATE INDEX ON fetchlock_limit.locked (lock_expires_at);

CREATE TABLE fetchlock_limit.outcome (
    id          bigint      PRIMARY KEY,
    finished_at timestamptz NOT NULL DEFAULT now(),
    lock_token  uuid        NOT NULL,
    topic       integer     NOT NULL,
    attempt     integer     NOT NULL,
    worker_id   text        NOT NULL
);
