-- A fetch that wishes for tasks by their variables.

-- Or null: `json` is kept to the letter, and holds numbers that `jsonb` does not.
CREATE FUNCTION fetchlock.as_jsonb(given json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN given::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END
$$;

-- Whether one of the [name, value] pairs is among the variables.
CREATE FUNCTION fetchlock.has_any(variables json, pairs json) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (
        SELECT FROM json_array_elements(pairs) AS p (pair)
        WHERE fetchlock.as_jsonb(variables -> (p.pair ->> 0)) = fetchlock.as_jsonb(p.pair -> 1)
    )
$$;
