-- What one process at a time may do, such as the replay of a stream. A claim has an expiry, and is renewed: a lock that
-- goes with a connection says nothing where a pooler stands in between.
CREATE TABLE public.exagg_claims (
    name       varchar     COLLATE "C" PRIMARY KEY,
    holder     varchar     NOT NULL,
    expires_at timestamptz NOT NULL
);
