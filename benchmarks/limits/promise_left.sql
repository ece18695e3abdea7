-- What is neither waiting nor finished is missing, and counts as left behind.
SELECT count(*) - (SELECT count(*) FROM fetchlock_limit.outcome) FROM fetchlock_limit.task;
