CREATE TABLE layers (diff_id text PRIMARY KEY, size bigint NOT NULL CHECK (size >= 0));
INSERT INTO layers SELECT 'sha256:' || md5(n::text), n * 1024 FROM generate_series(1, 1000) AS n;
CREATE INDEX ON layers (size);
