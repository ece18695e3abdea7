SELECT count(*) FROM fetchlock_limit.work;
