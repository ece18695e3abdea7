-- A fetch that wishes for tasks by their variables.

-- Or null: `json` is kept to the letter, and holds numbers and texts that `jsonb` does not.
CREATE FUNCTION fetchlock.as_jsonb(given json) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    -- To be ready for an error costs a subtransaction, and most texts show that there is none.
    IF given::text !~ '\\u|[0-9]{99}|[eE][+-]?[0-9]{3}' THEN
        RETURN given::jsonb;
    END IF;
    BEGIN
        RETURN given::jsonb;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        RETURN NULL;
    END;
END
$$;

-- What `has_any` looks for: of [name, value] pairs, the values of each name.
CREATE FUNCTION fetchlock.by_name(pairs json) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT coalesce(jsonb_object_agg(w.name, w.wanted), '{}')
    FROM (
        SELECT p.pair ->> 0 AS name, jsonb_agg(fetchlock.as_jsonb(p.pair -> 1)) AS wanted
        FROM json_array_elements(pairs) AS p (pair)
        WHERE fetchlock.as_jsonb(p.pair -> 1) IS NOT NULL
        GROUP BY 1
    ) w
$$;

-- Whether one of the variables has one of the values that are wanted of its name. All variables
-- are taken apart once, however many are wanted.
CREATE FUNCTION fetchlock.has_any(variables json, wanted jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT EXISTS (
        SELECT FROM json_each(variables) AS v (name, value)
        CROSS JOIN LATERAL jsonb_array_elements(wanted -> v.name) AS w (value)
        WHERE json_typeof(v.value) = jsonb_typeof(w.value)
          AND (v.value::text = w.value::text OR fetchlock.as_jsonb(v.value) = w.value)
    )
$$;
