-- make_partitions: have partitions ready for the coming weeks.
SELECT fetchlock.make_partitions(now() - interval '7 days', now() + interval '28 days') AS made;
