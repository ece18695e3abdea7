-- Two statements, two commits: between them the worker has the tasks and the
-- database has no transaction. One token fences all tasks of a claim.
WITH taken AS (
    DELETE FROM fetchlock_limit.ready
    -- By their place: nothing moves a row that this statement has locked.
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM fetchlock_limit.ready
        WHERE topic = :topic ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, topic, attempt
), claimed AS (
    INSERT INTO fetchlock_limit.locked (
        id, lock_expires_at, lock_token, topic, attempt, worker_id)
    SELECT id, now() + interval '60 s', (SELECT gen_random_uuid()), topic, attempt + 1,
           'worker-' || :client_id
    FROM taken
    RETURNING id, lock_token
)
SELECT array_agg(id) AS ids, min(lock_token::text) AS token, string_agg(payload, '') AS payloads
FROM claimed JOIN fetchlock_limit.task USING (id) \gset
-- The ids came out to the client with the payloads, and go back in, as a worker's do.
WITH closed AS (
    DELETE FROM fetchlock_limit.locked
    WHERE id = ANY (:ids::bigint[])
      AND lock_token = :token::uuid
      AND worker_id = 'worker-' || :client_id
      -- So written that the expiry's index cannot serve: the ids are what finds the rows.
      AND lock_expires_at + interval '0 s' > now()
    RETURNING id, lock_token, topic, attempt, worker_id
)
INSERT INTO fetchlock_limit.outcome (id, lock_token, topic, attempt, worker_id)
SELECT id, lock_token, topic, attempt, worker_id FROM closed;
