WITH created AS (
    INSERT INTO fetchlock_limit.task (topic, payload)
    SELECT :topic, :payload FROM generate_series(1, :batch)
    RETURNING id, topic
)
INSERT INTO fetchlock_limit.ready (id, topic) SELECT id, topic FROM created;
