-- What a stream's rows were made with, so that a setting that changes what they mean is noticed, and replays that can
-- be stopped and go on.

ALTER TABLE public.streams
    -- The aggregator's settings of fields, times and windows; null: nobody has told yet.
    ADD COLUMN made_with jsonb,
    -- Some rows may have been made with others.
    ADD COLUMN is_mixed boolean NOT NULL DEFAULT false,
    -- A replay that takes a watermark back raises it: a closer that computed one before writes nothing.
    ADD COLUMN settings_revision integer NOT NULL DEFAULT 0,
    -- Rows of windows that start by then may hold records of a topic that is retired: no log has them.
    ADD COLUMN retired_until timestamp,
    -- What the watermark may become, once every idle partition was heard of after it was written.
    ADD COLUMN candidate timestamp,
    ADD COLUMN candidate_at timestamptz;
-- What rows of before were made with nobody knows; nor which topics were retired, but where records of one were lost.
UPDATE public.streams AS s SET is_mixed = true, retired_until = (
    SELECT max(g.seen_at) AT TIME ZONE 'UTC' FROM public.gaps AS g
    WHERE g.stream = s.stream AND (g.reason LIKE 'the topic %' OR g.reason LIKE '%it forgot'));

-- A reject that a replay has counted since is none any more, and stays for the record.
ALTER TABLE public.rejected_records ADD COLUMN counted_at timestamptz;

CREATE TABLE public.replays (
    replay     varchar     COLLATE "C" PRIMARY KEY,
    -- What the function and its settings were: with others it does not go on.
    made_by    text        NOT NULL,
    since      timestamp   NOT NULL,
    until      timestamp   NOT NULL,
    -- As in `streams`: written by the function.
    made_with  jsonb,
    -- Until then the live stream's aggregators wait, so that the replay can catch up with them.
    held_until timestamptz,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What people have done to a stream by a command.
CREATE TABLE public.operations (
    done_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The user of the database, and the address of the client.
    who       varchar     NOT NULL DEFAULT session_user || coalesce(' from ' || host(inet_client_addr()), ''),
    operation varchar     NOT NULL,
    stream    varchar     COLLATE "C" NOT NULL,
    what      text        NOT NULL
);

-- When rows are next looked for that are past their retention, by whichever closer comes first.
CREATE TABLE public.retention (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    next_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO public.retention DEFAULT VALUES;

-- They are told more, or do otherwise, now: `definitions.sql`.
DROP FUNCTION public.exagg_replay_begin(varchar, varchar, timestamp, timestamp);
DROP FUNCTION public.exagg_replay_end(varchar, varchar, timestamp, timestamp, timestamp);
DROP TABLE public.replay_windows;
