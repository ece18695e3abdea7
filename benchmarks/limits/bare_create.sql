INSERT INTO fetchlock_limit.work (topic, payload)
SELECT :topic, :payload FROM generate_series(1, :batch);
