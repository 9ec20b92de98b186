-- What each host says of itself: its stages, their versions, calls and partitions. A host writes its row every few seconds
-- and at each change, and notes that it has stopped; rows of hosts that are gone go after a while.
CREATE TABLE public.exagg_hosts (
    -- Of one process.
    host       varchar     COLLATE "C" PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    state      jsonb       NOT NULL
) WITH (fillfactor = 50);

-- The latest of a stream and of a reason, and how many of each. Rejects wait while these are made.
CREATE INDEX rejected_records_by_stream ON public.rejected_records (stream, rejected_at) INCLUDE (reason);
CREATE INDEX gaps_by_stream ON public.gaps (stream, seen_at);
CREATE INDEX rejected_records_by_reason ON public.rejected_records (stream, reason, rejected_at);
