-- signing_keys: the keys of callback URLs, the one that signs first.
SELECT k.key FROM fetchlock.signing_key k ORDER BY k.key_id DESC;
