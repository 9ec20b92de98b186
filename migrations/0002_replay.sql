-- Replay: windows computed anew from Kafka while the live pipeline runs. A replay aggregates under
-- a stream name of its own, `<stream>@replay`, which has no row in `streams`: no closer folds it.

-- What a replay saw of the closed rows when it began.
CREATE TABLE public.replay_windows (
    replay       varchar   COLLATE "C" NOT NULL,
    window_start timestamp NOT NULL,
    window_end   timestamp NOT NULL,
    code         varchar   COLLATE "C" NOT NULL,
    revision     integer   NOT NULL,
    PRIMARY KEY (replay, window_start, window_end, code)
);

-- As before, without what a replay has under way.
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
      FROM public.window_state
      WHERE stream NOT LIKE '%@replay') AS parts
GROUP BY window_start, window_end, stream, code;

-- Notes the closed rows and says up to which offset of each partition they are made: one snapshot.
CREATE FUNCTION public.exagg_replay_begin(of_stream varchar, replay_stream varchar, since timestamp, until timestamp)
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
CREATE FUNCTION public.exagg_replay_end(
    of_stream varchar, replay_stream varchar, log_begins timestamp, since timestamp, until timestamp)
RETURNS TABLE (outcome text, window_start timestamp, window_end timestamp, code varchar)
LANGUAGE sql AS $$
    WITH rebuilt AS (
        SELECT w.window_start, w.window_end, w.code,
               sum(w.records)::int8 AS records, sum(w.sum_vol) AS sum_vol, min(w.min_vol) AS min_vol,
               max(w.max_vol) AS max_vol,
               (array_agg(w ORDER BY w.first_time_us, w.topic, w.partition, w.first_offset))[1] AS f,
               (array_agg(w ORDER BY w.last_time_us DESC, w.topic DESC, w.partition DESC, w.last_offset DESC))[1] AS l
        FROM public.window_state w
        WHERE w.stream = replay_stream AND w.window_start >= since AND w.window_end <= until
        GROUP BY w.window_start, w.window_end, w.code
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
                   WHEN EXISTS (SELECT FROM public.window_state w
                                WHERE w.stream = of_stream AND w.window_end = k.window_end
                                  AND w.window_start = k.window_start AND w.code = k.code)
                       THEN 'records of it are pending'
                   WHEN s.watermark IS NULL
                        OR k.window_end > s.watermark - s.allowed_lateness_seconds * interval '1 second'
                       THEN 'it is not closed yet'
                   WHEN a.revision IS DISTINCT FROM k.revision THEN 'it was revised meanwhile'
                   WHEN k.records < a.records THEN 'the log holds fewer records than were counted'
                   WHEN k.records = a.records AND k.min_vol = a.min_vol AND k.max_vol = a.max_vol
                        AND (k.f).first_vol = a.first_vol AND (k.l).last_vol = a.last_vol
                        AND abs(k.sum_vol - a.sum_vol) <= 1e-9 * abs(a.sum_vol)
                       THEN 'unchanged'
                   ELSE 'rebuilt'
               END AS outcome
        FROM (SELECT window_start, window_end, code, r.records, r.sum_vol, r.min_vol, r.max_vol, r.f, r.l, seen.revision
              FROM rebuilt r FULL JOIN seen USING (window_start, window_end, code)) AS k
        JOIN public.streams s ON s.stream = of_stream
        LEFT JOIN public.aggregates a
             ON a.stream = of_stream AND a.window_start = k.window_start AND a.window_end = k.window_end
                AND a.code = k.code
    ), changed AS (
        UPDATE public.aggregates a SET
            avg_vol = j.sum_vol / j.records, records = j.records, sum_vol = j.sum_vol,
            min_vol = j.min_vol, max_vol = j.max_vol, first_vol = (j.f).first_vol, last_vol = (j.l).last_vol,
            first_time_us = (j.f).first_time_us, first_topic = (j.f).topic, first_partition = (j.f).partition,
            first_offset = (j.f).first_offset,
            last_time_us = (j.l).last_time_us, last_topic = (j.l).topic, last_partition = (j.l).partition,
            last_offset = (j.l).last_offset,
            revision = a.revision + 1, closed_at = clock_timestamp()
        FROM judged j
        WHERE j.outcome = 'rebuilt' AND a.stream = of_stream AND a.window_start = j.window_start
          AND a.window_end = j.window_end AND a.code = j.code AND a.revision = j.revision
        RETURNING a.window_start, a.window_end, a.code
    ), added AS (
        INSERT INTO public.aggregates AS a
            (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
             first_time_us, first_topic, first_partition, first_offset,
             last_time_us, last_topic, last_partition, last_offset)
        SELECT j.window_start, j.window_end, j.code, j.sum_vol / j.records, of_stream, j.records, j.sum_vol,
               j.min_vol, j.max_vol, (j.f).first_vol, (j.l).last_vol,
               (j.f).first_time_us, (j.f).topic, (j.f).partition, (j.f).first_offset,
               (j.l).last_time_us, (j.l).topic, (j.l).partition, (j.l).last_offset
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
CREATE FUNCTION public.exagg_replay_forget(replay_stream varchar) RETURNS void LANGUAGE sql AS $$
    DELETE FROM public.window_state WHERE stream = replay_stream;
    DELETE FROM public.progress WHERE stream = replay_stream;
    DELETE FROM public.rejected_records WHERE stream = replay_stream;
    DELETE FROM public.replay_windows WHERE replay = replay_stream;
$$;
