-- The least that a table of work can be: an order in a topic, and what is to be done.

DROP SCHEMA IF EXISTS fetchlock_limit CASCADE;
CREATE SCHEMA fetchlock_limit;

CREATE TABLE fetchlock_limit.work (
    id      bigint  GENERATED ALWAYS AS IDENTITY (CACHE 500),
    topic   integer NOT NULL,
    payload text    NOT NULL,
    PRIMARY KEY (topic, id)
);
