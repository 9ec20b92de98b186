-- The pipeline's tables. Names and rules: README.md in this folder.

-- An `aggregates` table that is not ours (a user of the reference has one) is kept beside ours.
DO $$
BEGIN
    IF to_regclass('public.aggregates') IS NOT NULL THEN
        ALTER TABLE public.aggregates RENAME TO aggregates_before_exagg;
        RAISE NOTICE 'the existing table public.aggregates is kept, renamed to public.aggregates_before_exagg';
    END IF;
END
$$;

-- Final rows: one per stream, window and code. The reference's four columns come first.
-- first and last are ordered by (event time, topic, partition, offset); that order is kept
-- beside them so that a later revision merges right.
CREATE TABLE public.aggregates (
    window_start    timestamp        NOT NULL,
    window_end      timestamp        NOT NULL,
    code            varchar          COLLATE "C" NOT NULL,
    avg_vol         double precision NOT NULL,
    stream          varchar          COLLATE "C" NOT NULL,
    records         bigint           NOT NULL,
    sum_vol         double precision NOT NULL,
    min_vol         double precision NOT NULL,
    max_vol         double precision NOT NULL,
    first_vol       double precision NOT NULL,
    last_vol        double precision NOT NULL,
    revision        integer          NOT NULL DEFAULT 0,
    closed_at       timestamptz      NOT NULL DEFAULT clock_timestamp(),
    first_time_us   bigint           NOT NULL,
    first_topic     varchar          COLLATE "C" NOT NULL,
    first_partition integer          NOT NULL,
    first_offset    bigint           NOT NULL,
    last_time_us    bigint           NOT NULL,
    last_topic      varchar          COLLATE "C" NOT NULL,
    last_partition  integer          NOT NULL,
    last_offset     bigint           NOT NULL
);
-- The window comes first: new rows then go to the index's right edge.
CREATE UNIQUE INDEX aggregates_by_window ON public.aggregates (window_start, window_end, stream, code);
CREATE INDEX aggregates_by_code ON public.aggregates (stream, code, window_start);

-- What is counted and not yet closed, kept apart by partition so that partitions never contend.
CREATE TABLE public.window_state (
    stream          varchar          COLLATE "C" NOT NULL,
    window_end      timestamp        NOT NULL,
    window_start    timestamp        NOT NULL,
    code            varchar          COLLATE "C" NOT NULL,
    topic           varchar          COLLATE "C" NOT NULL,
    partition       integer          NOT NULL,
    records         bigint           NOT NULL,
    sum_vol         double precision NOT NULL,
    min_vol         double precision NOT NULL,
    max_vol         double precision NOT NULL,
    first_vol       double precision NOT NULL,
    last_vol        double precision NOT NULL,
    first_time_us   bigint           NOT NULL,
    first_offset    bigint           NOT NULL,
    last_time_us    bigint           NOT NULL,
    last_offset     bigint           NOT NULL,
    PRIMARY KEY (stream, window_end, window_start, code, topic, partition)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);

-- The offset fence: how far each partition is applied. next_offset moves by compare-and-set only.
CREATE TABLE public.progress (
    stream            varchar     COLLATE "C" NOT NULL,
    topic_id          varchar     COLLATE "C" NOT NULL,
    partition         integer     NOT NULL,
    topic             varchar     COLLATE "C" NOT NULL,
    next_offset       bigint      NOT NULL,
    end_offset        bigint      NOT NULL,
    partition_count   integer     NOT NULL,
    consumer_group    varchar     NOT NULL,
    max_event_time_us bigint,
    first_seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_record_at    timestamptz,
    last_seen_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream, topic_id, partition)
) WITH (fillfactor = 50);

-- One row a stream: the aggregator writes its settings, the window-closer the rest.
-- The watermark and closed_before only rise.
CREATE TABLE public.streams (
    stream                   varchar     COLLATE "C" PRIMARY KEY,
    window_seconds           bigint      NOT NULL,
    slide_seconds            bigint      NOT NULL,
    allowed_lateness_seconds bigint      NOT NULL,
    idle_timeout_seconds     bigint      NOT NULL,
    max_future_seconds       bigint      NOT NULL,
    late                     varchar     NOT NULL CHECK (late IN ('revise', 'reject')),
    watermark                timestamp,
    watermark_held_by        text        NOT NULL DEFAULT 'no partition was seen yet',
    closed_before            timestamp,
    updated_at               timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Records that are not counted, each with its reason and where it came from.
CREATE TABLE public.rejected_records (
    rejected_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    stream        varchar     COLLATE "C" NOT NULL,
    topic         varchar     COLLATE "C" NOT NULL,
    topic_id      varchar     COLLATE "C" NOT NULL,
    partition     integer     NOT NULL,
    record_offset bigint      NOT NULL,
    window_start  timestamp,
    reason        varchar     NOT NULL,
    value_bytes   bigint,
    value         bytea
);
COMMENT ON COLUMN public.rejected_records.window_start IS 'the window it was too late for; null when the record as a whole is rejected';
COMMENT ON COLUMN public.rejected_records.value_bytes IS 'true length; null for a tombstone';
COMMENT ON COLUMN public.rejected_records.value IS 'the first 64 KiB';
CREATE UNIQUE INDEX rejected_records_once ON public.rejected_records
    (stream, topic_id, partition, record_offset, (coalesce(window_start, '-infinity')));
CREATE INDEX rejected_records_by_time ON public.rejected_records (rejected_at);

-- Offsets that the log lost before they were read.
CREATE TABLE public.gaps (
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    stream      varchar     COLLATE "C" NOT NULL,
    topic       varchar     COLLATE "C" NOT NULL,
    topic_id    varchar     COLLATE "C" NOT NULL,
    partition   integer     NOT NULL,
    from_offset bigint      NOT NULL,
    next_offset bigint      NOT NULL,
    reason      text        NOT NULL,
    UNIQUE (stream, topic_id, partition, from_offset, next_offset)
);

-- One row a key, closed and pending merged. Final: closed, and nothing pending.
CREATE VIEW public.live_aggregates AS
SELECT window_start,
       window_end,
       code,
       sum(sum_vol) / sum(records)::double precision AS avg_vol,
       stream,
       sum(records)::bigint AS records,
       sum(sum_vol) AS sum_vol,
       min(min_vol) AS min_vol,
       max(max_vol) AS max_vol,
       (array_agg(first_vol ORDER BY first_time_us, first_topic, first_partition, first_offset))[1] AS first_vol,
       (array_agg(last_vol ORDER BY last_time_us DESC, last_topic DESC, last_partition DESC, last_offset DESC))[1] AS last_vol,
       max(revision) AS revision,
       max(closed_at) AS closed_at,
       bool_and(closed) AS is_final
FROM (SELECT window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
             revision, closed_at, first_time_us, first_topic, first_partition, first_offset,
             last_time_us, last_topic, last_partition, last_offset, true AS closed
      FROM public.aggregates
      UNION ALL
      SELECT window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
             NULL, NULL, first_time_us, topic, partition, first_offset,
             last_time_us, topic, partition, last_offset, false
      FROM public.window_state) AS parts
GROUP BY window_start, window_end, stream, code;

-- What `exagg status` and /metrics show.
CREATE VIEW public.stream_status AS
SELECT s.stream,
       s.watermark,
       s.watermark_held_by,
       s.closed_before,
       s.window_seconds,
       s.slide_seconds,
       s.allowed_lateness_seconds,
       s.late,
       (SELECT count(*) FROM public.progress p WHERE p.stream = s.stream) AS partitions,
       (SELECT coalesce(sum(greatest(p.end_offset - p.next_offset, 0)), 0)::bigint
          FROM public.progress p WHERE p.stream = s.stream) AS lag_records,
       (SELECT min(p.last_seen_at) FROM public.progress p WHERE p.stream = s.stream) AS least_seen_at,
       (SELECT count(*) FROM (SELECT DISTINCT w.window_start, w.window_end FROM public.window_state w
                              WHERE w.stream = s.stream) AS open) AS open_windows,
       (SELECT count(*) FROM public.rejected_records r WHERE r.stream = s.stream) AS rejected_records,
       (SELECT count(*) FROM public.gaps g WHERE g.stream = s.stream) AS gaps
FROM public.streams s;

-- One row a sample; the host shows them on /metrics as they stand, without knowing what they mean.
CREATE VIEW public.exagg_metrics (name, help, stream, value) AS
SELECT 'exagg_stream_lag_records', 'Records between the progress and the end last seen.', stream, lag_records::double precision
  FROM public.stream_status
UNION ALL
SELECT 'exagg_stream_watermark_seconds', 'Watermark, Unix time.', stream, extract(epoch FROM watermark)::double precision
  FROM public.stream_status WHERE watermark IS NOT NULL
UNION ALL
SELECT 'exagg_stream_open_windows', 'Windows that hold records and are not closed.', stream, open_windows::double precision
  FROM public.stream_status
UNION ALL
SELECT 'exagg_stream_rejected_records', 'Rows in rejected_records.', stream, rejected_records::double precision
  FROM public.stream_status
UNION ALL
SELECT 'exagg_stream_gaps', 'Rows in gaps.', stream, gaps::double precision
  FROM public.stream_status;

-- Retires the progress of one topic of a stream, all its topic ids: what was not read any more
-- becomes a gap, what is pending stays and is closed. Returns the partitions retired.
-- Behind `exagg reset` (the topic was made again) and `exagg forget` (the topic is gone).
CREATE FUNCTION public.exagg_retire(retired_stream varchar, retired_topic varchar, kept_topic_id varchar, why text)
RETURNS bigint LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM public.progress
        WHERE stream = retired_stream AND topic = retired_topic AND topic_id IS DISTINCT FROM kept_topic_id
        RETURNING *
    ), unread AS (
        INSERT INTO public.gaps (stream, topic, topic_id, partition, from_offset, next_offset, reason)
        SELECT stream, topic, topic_id, partition, next_offset, end_offset, why
        FROM gone WHERE next_offset < end_offset
        ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM gone
$$;

-- Cron ticks that a replica has taken ([exagg.cron] lease).
CREATE TABLE public.exagg_cron_leases (
    stage        varchar     NOT NULL,
    scheduled_at timestamptz NOT NULL,
    PRIMARY KEY (stage, scheduled_at)
);
