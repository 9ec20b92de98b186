-- The views and functions as they are now, each once. A migration that changes a table they use changes this file,
-- which is then applied under another number (DEFINITIONS in host/pipeline/src/migrate.rs). What CREATE OR REPLACE
-- cannot change (a column's type, name or place) that migration drops first.

-- All that is pending, a row a partial aggregate.
CREATE OR REPLACE VIEW public.pending_parts AS
SELECT stream, window_start, window_end, code, records, sum_vol, min_vol, max_vol, first_edge, last_edge
FROM public.window_state
UNION ALL
SELECT stream, window_start, window_end, unnest(codes), unnest(records), unnest(sum_vols), unnest(min_vols),
       unnest(max_vols), unnest(first_edges), unnest(last_edges)
FROM public.window_batches;

-- One row a key, closed and pending merged, without what a replay has under way. Final: closed, and
-- nothing pending.
CREATE OR REPLACE VIEW public.live_aggregates AS
SELECT window_start,
       window_end,
       code,
       sum(sum_vol) / sum(records)::double precision AS avg_vol,
       stream,
       sum(records)::bigint AS records,
       sum(sum_vol) AS sum_vol,
       min(min_vol) AS min_vol,
       max(max_vol) AS max_vol,
       public.exagg_edge_value(min(first_edge)) AS first_vol,
       public.exagg_edge_value(max(last_edge)) AS last_vol,
       max(revision) AS revision,
       max(closed_at) AS closed_at,
       bool_and(closed) AS is_final
FROM (SELECT window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol, first_edge, last_edge,
             revision, closed_at, true AS closed
      FROM public.aggregates
      UNION ALL
      SELECT window_start, window_end, code, stream, records, sum_vol, min_vol, max_vol, first_edge, last_edge,
             NULL, NULL, false
      FROM public.pending_parts
      WHERE stream NOT LIKE '%@replay') AS parts
GROUP BY window_start, window_end, stream, code;

-- What `exagg status` and /metrics show.
CREATE OR REPLACE VIEW public.stream_status AS
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
       (SELECT count(*) FROM (SELECT w.window_start, w.window_end FROM public.window_state w
                              WHERE w.stream = s.stream
                              UNION
                              SELECT b.window_start, b.window_end FROM public.window_batches b
                              WHERE b.stream = s.stream) AS open) AS open_windows,
       (SELECT count(*) FROM public.rejected_records r WHERE r.stream = s.stream) AS rejected_records,
       (SELECT count(*) FROM public.gaps g WHERE g.stream = s.stream) AS gaps
FROM public.streams s;

-- One row a sample; the host shows them on /metrics as they stand, without knowing what they mean.
CREATE OR REPLACE VIEW public.exagg_metrics (name, help, stream, value) AS
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
-- Behind `exagg reset` (the topic was recreated) and `exagg forget` (the topic is gone).
CREATE OR REPLACE FUNCTION public.exagg_retire(retired_stream varchar, retired_topic varchar, kept_topic_id varchar, why text)
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

-- Notes the closed rows and says up to which offset of each partition they are made: one snapshot.
CREATE OR REPLACE FUNCTION public.exagg_replay_begin(of_stream varchar, replay_stream varchar, since timestamp, until timestamp)
RETURNS TABLE (topic varchar, topic_id varchar, partition integer, next_offset bigint, max_future_seconds bigint)
LANGUAGE sql AS $$
    WITH seen AS (
        INSERT INTO public.replay_windows (replay, window_start, window_end, code, revision)
        SELECT replay_stream, a.window_start, a.window_end, a.code, a.revision FROM public.aggregates a
        WHERE a.stream = of_stream AND a.window_start >= since AND a.window_end <= until
    )
    SELECT p.topic, p.topic_id, p.partition, p.next_offset, s.max_future_seconds
    FROM public.progress p JOIN public.streams s ON s.stream = p.stream
    WHERE p.stream = of_stream
    ORDER BY p.topic, p.partition
$$;

-- Replaces what can be replaced and says what became of each row. A row is replaced only when the
-- log still holds all its records (none is older than `log_begins`, and they are not fewer than
-- were counted), its revision is the one seen at the beginning, and nothing of it is pending: what
-- was applied after the beginning would be lost else.
CREATE OR REPLACE FUNCTION public.exagg_replay_end(
    of_stream varchar, replay_stream varchar, log_begins timestamp, since timestamp, until timestamp)
RETURNS TABLE (outcome text, window_start timestamp, window_end timestamp, code varchar)
LANGUAGE sql AS $$
    WITH rebuilt AS (
        SELECT w.window_start, w.window_end, w.code,
               sum(w.records)::int8 AS records, sum(w.sum_vol) AS sum_vol, min(w.min_vol) AS min_vol,
               max(w.max_vol) AS max_vol, min(w.first_edge) AS first_edge, max(w.last_edge) AS last_edge
        FROM public.pending_parts w
        WHERE w.stream = replay_stream AND w.window_start >= since AND w.window_end <= until
        GROUP BY w.window_start, w.window_end, w.code
    ), pending AS (
        SELECT DISTINCT w.window_start, w.window_end, w.code FROM public.pending_parts w
        WHERE w.stream = of_stream AND w.window_start >= since AND w.window_end <= until
    ), seen AS (
        SELECT * FROM public.replay_windows WHERE replay = replay_stream
    ), judged AS (
        SELECT k.*,
               CASE
                   WHEN k.records IS NULL THEN 'none of its records is in the log'
                   WHEN k.window_end - k.window_start <> s.window_seconds * interval '1 second'
                       THEN 'its length is not the stream''s'
                   WHEN k.window_start < log_begins + s.max_future_seconds * interval '1 second'
                       THEN 'the log may not hold all its records any more'
                   WHEN p.code IS NOT NULL THEN 'records of it are pending'
                   WHEN s.watermark IS NULL
                        OR k.window_end > s.watermark - s.allowed_lateness_seconds * interval '1 second'
                       THEN 'it is not closed yet'
                   WHEN a.revision IS DISTINCT FROM k.revision THEN 'it was revised meanwhile'
                   WHEN k.records < a.records THEN 'the log holds fewer records than were counted'
                   WHEN k.records = a.records AND k.min_vol = a.min_vol AND k.max_vol = a.max_vol
                        AND public.exagg_edge_value(k.first_edge) = a.first_vol
                        AND public.exagg_edge_value(k.last_edge) = a.last_vol
                        AND abs(k.sum_vol - a.sum_vol) <= 1e-9 * abs(a.sum_vol)
                       THEN 'unchanged'
                   ELSE 'rebuilt'
               END AS outcome
        FROM (SELECT window_start, window_end, code, r.records, r.sum_vol, r.min_vol, r.max_vol, r.first_edge,
                     r.last_edge, seen.revision
              FROM rebuilt r FULL JOIN seen USING (window_start, window_end, code)) AS k
        JOIN public.streams s ON s.stream = of_stream
        LEFT JOIN pending p
             ON p.window_start = k.window_start AND p.window_end = k.window_end AND p.code = k.code
        LEFT JOIN public.aggregates a
             ON a.stream = of_stream AND a.window_start = k.window_start AND a.window_end = k.window_end
                AND a.code = k.code
    ), changed AS (
        UPDATE public.aggregates a SET
            avg_vol = j.sum_vol / j.records, records = j.records, sum_vol = j.sum_vol,
            min_vol = j.min_vol, max_vol = j.max_vol,
            first_vol = public.exagg_edge_value(j.first_edge), last_vol = public.exagg_edge_value(j.last_edge),
            first_edge = j.first_edge, last_edge = j.last_edge,
            revision = a.revision + 1, closed_at = clock_timestamp()
        FROM judged j
        WHERE j.outcome = 'rebuilt' AND a.stream = of_stream AND a.window_start = j.window_start
          AND a.window_end = j.window_end AND a.code = j.code AND a.revision = j.revision
        RETURNING a.window_start, a.window_end, a.code
    ), added AS (
        INSERT INTO public.aggregates AS a
            (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
             first_edge, last_edge)
        SELECT j.window_start, j.window_end, j.code, j.sum_vol / j.records, of_stream, j.records, j.sum_vol,
               j.min_vol, j.max_vol, public.exagg_edge_value(j.first_edge), public.exagg_edge_value(j.last_edge),
               j.first_edge, j.last_edge
        FROM judged j WHERE j.outcome = 'rebuilt' AND j.revision IS NULL
        ON CONFLICT DO NOTHING
        RETURNING a.window_start, a.window_end, a.code
    )
    SELECT CASE WHEN j.outcome = 'rebuilt' AND done.code IS NULL THEN 'it was revised meanwhile' ELSE j.outcome END,
           j.window_start, j.window_end, j.code
    FROM judged j
    LEFT JOIN (SELECT * FROM changed UNION ALL SELECT * FROM added) AS done USING (window_start, window_end, code)
    ORDER BY 2, 3, 4
$$;

-- Forgets what a replay has written of its own.
CREATE OR REPLACE FUNCTION public.exagg_replay_forget(replay_stream varchar) RETURNS void LANGUAGE sql AS $$
    DELETE FROM public.window_state WHERE stream = replay_stream;
    DELETE FROM public.window_batches WHERE stream = replay_stream;
    DELETE FROM public.progress WHERE stream = replay_stream;
    DELETE FROM public.rejected_records WHERE stream = replay_stream;
    DELETE FROM public.replay_windows WHERE replay = replay_stream;
$$;
