-- The state of a task that was handed over. In a migration of its own, because a
-- new value of an enum can only be used once the transaction that adds it is over.
ALTER TYPE fetchlock.open_state ADD VALUE 'awaiting' AFTER 'locked';
