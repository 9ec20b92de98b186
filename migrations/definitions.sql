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

-- The one statement of the aggregator's batch: moves the progress by compare-and-set, and everything else hangs on that.
-- False where it was held back. As a function, so that its plans stay with the server's session, whatever pooler stands in
-- between: planning it anew took three quarters of a small batch's time. It has the rights of its caller. Aggregators of
-- other versions call it meanwhile: what needs other parameters gets another name. What is packed comes in blocks whose
-- codes are sorted by their bytes.
--
-- A batch's end may be older than the one that a heartbeat told. Bad records are silence: they must not hold the
-- watermark. It holds back as well while a replay of the stream is about to end, where an event is further ahead of
-- PostgreSQL's clock than the settings allow, and, where late records are rejected (`earliest_end` is given, Unix
-- seconds), for a window that was closed meanwhile: the lock of the stream's row makes the window-closer wait, and the
-- advisory lock is the fair queue before it, for row locks alone let new readers pass a waiting writer for ever.
CREATE OR REPLACE FUNCTION public.exagg_apply(
    of_stream varchar, of_topic_id varchar, of_partition integer, from_offset bigint, to_offset bigint, seen_end bigint,
    seen_partitions integer, of_group varchar, last_event_us bigint, has_events boolean, ahead_us bigint,
    row_ends bigint[], row_starts bigint[], row_codes text[], row_records bigint[], row_numbers text[],
    row_firsts text[], row_lasts text[],
    packed_ends bigint[], packed_starts bigint[], packed_codes text[], packed_records text[], packed_sums text[],
    packed_mins text[], packed_maxs text[], packed_firsts text[], packed_lasts text[],
    reject_offsets bigint[], reject_starts bigint[], reject_reasons text[], reject_bytes bigint[], reject_values text[],
    earliest_end bigint, layout integer)
RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    of_topic varchar;
BEGIN
    IF earliest_end IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('exagg stream ' || of_stream, 0));
        PERFORM FROM public.streams s WHERE s.stream = of_stream FOR SHARE;
        IF EXISTS (SELECT FROM public.streams s WHERE s.stream = of_stream
                   AND s.closed_before >= timestamp 'epoch' + earliest_end * interval '1 second') THEN
            RETURN false;
        END IF;
    END IF;

    UPDATE public.progress p SET
        next_offset = to_offset, end_offset = greatest(p.end_offset, seen_end), partition_count = seen_partitions,
        consumer_group = of_group, max_event_time_us = greatest(p.max_event_time_us, last_event_us),
        last_record_at = CASE WHEN has_events THEN clock_timestamp() ELSE p.last_record_at END,
        last_seen_at = clock_timestamp()
    WHERE p.stream = of_stream AND p.topic_id = of_topic_id AND p.partition = of_partition
        AND p.next_offset = from_offset
        AND (last_event_us IS NULL OR last_event_us - ahead_us <= extract(epoch FROM clock_timestamp()) * 1000000)
        AND (SELECT l.version FROM public.window_state_layout l) = layout
        AND NOT EXISTS (SELECT FROM public.replays r
                        WHERE r.replay = of_stream || '@replay' AND r.held_until > clock_timestamp())
    RETURNING p.topic INTO of_topic;
    IF NOT FOUND THEN
        RETURN false;
    END IF;

    IF cardinality(row_ends) > 0 THEN
        INSERT INTO public.window_state AS s
            (stream, window_end, window_start, code, topic, partition, records, sum_vol, min_vol, max_vol, first_edge,
             last_edge)
        SELECT of_stream, timestamp 'epoch' + f.window_end * interval '1 second',
               timestamp 'epoch' + f.window_start * interval '1 second',
               f.code, of_topic, of_partition, f.records, f.numbers[1], f.numbers[2], f.numbers[3], f.first_edge,
               f.last_edge
        FROM (SELECT u.window_end, u.window_start, u.code, u.records, u.numbers::float8[] AS numbers, u.first_edge,
                     u.last_edge
              FROM unnest(row_ends, row_starts, row_codes, row_records, row_numbers, row_firsts, row_lasts)
                   AS u(window_end, window_start, code, records, numbers, first_edge, last_edge)) AS f
        ON CONFLICT ON CONSTRAINT window_state_pkey DO UPDATE SET
            records = s.records + excluded.records,
            sum_vol = s.sum_vol + excluded.sum_vol,
            min_vol = least(s.min_vol, excluded.min_vol),
            max_vol = greatest(s.max_vol, excluded.max_vol),
            first_edge = least(s.first_edge, excluded.first_edge),
            last_edge = greatest(s.last_edge, excluded.last_edge);
    END IF;

    IF cardinality(packed_ends) > 0 THEN
        INSERT INTO public.window_batches
            (stream, window_end, window_start, codes, records, sum_vols, min_vols, max_vols, first_edges, last_edges,
             first_code, last_code)
        SELECT of_stream, timestamp 'epoch' + b.window_end * interval '1 second',
               timestamp 'epoch' + b.window_start * interval '1 second',
               b.codes, b.records::int8[], b.sums::float8[], b.mins::float8[], b.maxs::float8[],
               b.firsts::varchar[], b.lasts::varchar[], b.codes[1], b.codes[cardinality(b.codes)]
        FROM (SELECT p.*, p.texts::varchar[] AS codes
              FROM unnest(packed_ends, packed_starts, packed_codes, packed_records, packed_sums, packed_mins, packed_maxs,
                          packed_firsts, packed_lasts)
                   AS p(window_end, window_start, texts, records, sums, mins, maxs, firsts, lasts)
              -- So that each text is taken apart once.
              OFFSET 0) AS b;
    END IF;

    IF cardinality(reject_offsets) > 0 THEN
        INSERT INTO public.rejected_records
            (stream, topic, topic_id, partition, record_offset, window_start, reason, value_bytes, value, keeps_value)
        SELECT of_stream, of_topic, of_topic_id, of_partition, r.record_offset,
               timestamp 'epoch' + r.window_start * interval '1 second', r.reason, r.value_bytes,
               decode(r.value, 'base64'), r.value IS NOT NULL
        FROM unnest(reject_offsets, reject_starts, reject_reasons, reject_bytes, reject_values)
             AS r(record_offset, window_start, reason, value_bytes, value)
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN true;
END
$$;

-- What a closer's tick begins with: the clock, the layout of `window_state`, whether rows past their retention are to be
-- looked for, and all streams with their partitions. Its plan is kept, and may have been made while the tables were empty:
-- without the first setting it would read all that is pending a minute later. (By that setting costs look so large that
-- PostgreSQL would compile the plan, for longer than it takes.)
CREATE OR REPLACE FUNCTION public.exagg_closer_look() RETURNS jsonb LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN (SELECT jsonb_build_object(
        'now_us', (extract(epoch FROM clock_timestamp()) * 1000000)::int8,
        'layout', (SELECT version FROM public.window_state_layout),
        'retention_is_due', EXISTS (SELECT FROM public.retention WHERE next_at <= clock_timestamp()),
        'streams', (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'stream', s.stream,
        'settings_revision', s.settings_revision,
        'allowed_lateness_seconds', s.allowed_lateness_seconds,
        'idle_timeout_seconds', s.idle_timeout_seconds,
        'late', s.late,
        'watermark_us', (extract(epoch FROM s.watermark) * 1000000)::int8,
        'held_by', s.watermark_held_by,
        'closed_before_us', (extract(epoch FROM s.closed_before) * 1000000)::int8,
        'pending_us', (SELECT jsonb_build_array((extract(epoch FROM least(f.row_end, f.batch_end)) * 1000000)::int8,
                                                (extract(epoch FROM greatest(l.row_end, l.batch_end)) * 1000000)::int8)
                       FROM (SELECT (SELECT w.window_end FROM public.window_state w WHERE w.stream = s.stream
                                     ORDER BY w.stream, w.window_end LIMIT 1) AS row_end,
                                    (SELECT b.window_end FROM public.window_batches b WHERE b.stream = s.stream
                                     ORDER BY b.stream, b.window_end LIMIT 1) AS batch_end) AS f,
                            (SELECT (SELECT w.window_end FROM public.window_state w WHERE w.stream = s.stream
                                     ORDER BY w.stream DESC, w.window_end DESC LIMIT 1) AS row_end,
                                    (SELECT b.window_end FROM public.window_batches b WHERE b.stream = s.stream
                                     ORDER BY b.stream DESC, b.window_end DESC LIMIT 1) AS batch_end) AS l
                       WHERE greatest(l.row_end, l.batch_end) IS NOT NULL),
        'candidate', CASE WHEN s.candidate IS NOT NULL THEN jsonb_build_object(
            'time_us', (extract(epoch FROM s.candidate) * 1000000)::int8,
            'age', extract(epoch FROM clock_timestamp() - s.candidate_at)) END,
        'partitions', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'topic', p.topic,
                'topic_id', p.topic_id,
                'partition', p.partition,
                'partition_count', p.partition_count,
                'next_offset', p.next_offset,
                'end_offset', p.end_offset,
                'max_event_time_us', p.max_event_time_us,
                'seen_ago', extract(epoch FROM clock_timestamp() - p.last_seen_at),
                'silent_for', extract(epoch FROM clock_timestamp() - coalesce(p.last_record_at, p.first_seen_at))))
            FROM public.progress p WHERE p.stream = s.stream), '[]'::jsonb))), '[]'::jsonb)
        FROM public.streams s)));
END
$$;

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
    ), noted AS (
        UPDATE public.streams SET retired_until = greatest(retired_until, last.event_time)
        FROM (SELECT timestamp 'epoch' + max(max_event_time_us) * interval '1 microsecond' AS event_time
              FROM gone) AS last
        WHERE stream = retired_stream AND last.event_time IS NOT NULL
    )
    SELECT count(*) FROM gone
$$;

-- Writes down what somebody has done to a stream.
CREATE OR REPLACE FUNCTION public.exagg_note(of_operation varchar, of_stream varchar, of_what text)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.operations (operation, stream, what) VALUES (of_operation, of_stream, of_what)
$$;

-- How many rows of a stream each table has.
CREATE OR REPLACE FUNCTION public.exagg_stream_rows(of_stream varchar)
RETURNS TABLE (relation varchar, row_count bigint) LANGUAGE sql STABLE AS $$
    SELECT 'aggregates', count(*) FROM public.aggregates WHERE stream = of_stream
    UNION ALL SELECT 'window_state', count(*) FROM public.window_state WHERE stream = of_stream
    UNION ALL SELECT 'window_batches', count(*) FROM public.window_batches WHERE stream = of_stream
    UNION ALL SELECT 'rejected_records', count(*) FROM public.rejected_records WHERE stream = of_stream
    UNION ALL SELECT 'gaps', count(*) FROM public.gaps WHERE stream = of_stream
    UNION ALL SELECT 'progress', count(*) FROM public.progress WHERE stream = of_stream
    UNION ALL SELECT 'streams', count(*) FROM public.streams WHERE stream = of_stream
$$;

-- Removes a stream with all that there is of it, and says how many rows that were. Behind `exagg drop`.
CREATE OR REPLACE FUNCTION public.exagg_drop(of_stream varchar)
RETURNS TABLE (relation varchar, row_count bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM public.exagg_replay_hold(of_stream);
    RETURN QUERY SELECT * FROM public.exagg_stream_rows(of_stream);
    PERFORM public.exagg_replay_forget((of_stream || '@replay')::varchar);
    DELETE FROM public.aggregates WHERE stream = of_stream;
    DELETE FROM public.window_state WHERE stream = of_stream;
    DELETE FROM public.window_batches WHERE stream = of_stream;
    DELETE FROM public.rejected_records WHERE stream = of_stream;
    DELETE FROM public.gaps WHERE stream = of_stream;
    DELETE FROM public.progress WHERE stream = of_stream;
    DELETE FROM public.streams WHERE stream = of_stream;
END
$$;

-- A replay computes the windows of a stream anew from Kafka, under a stream name of its own, while the live pipeline
-- runs. It has its rows in `window_state` and `window_batches`, its progress in `progress`, and no row in `streams`: no
-- closer folds it.

-- Forgets what a replay has written of its own.
CREATE OR REPLACE FUNCTION public.exagg_replay_forget(replay_stream varchar) RETURNS void LANGUAGE sql AS $$
    DELETE FROM public.window_state WHERE stream = replay_stream;
    DELETE FROM public.window_batches WHERE stream = replay_stream;
    DELETE FROM public.progress WHERE stream = replay_stream;
    DELETE FROM public.rejected_records WHERE stream = replay_stream;
    DELETE FROM public.replays WHERE replay = replay_stream;
$$;

-- Says from where (null: from the beginning) and up to where a replay reads each partition. One that was stopped goes
-- on if it is the same: the same function with the same settings for the same part, and nothing that it has read is
-- unread again in the live stream. Else it starts afresh.
CREATE OR REPLACE FUNCTION public.exagg_replay_begin(
    of_stream varchar, replay_stream varchar, function_and_settings text, part_since timestamp, part_until timestamp)
RETURNS TABLE (topic varchar, topic_id varchar, partition integer, from_offset bigint, next_offset bigint,
               max_future_seconds bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM public.streams WHERE stream = of_stream) THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM public.replays r
                   WHERE r.replay = replay_stream AND r.made_by = function_and_settings
                     AND r.since = part_since AND r.until = part_until)
       OR EXISTS (SELECT FROM public.progress mine
                  LEFT JOIN public.progress live
                       ON live.stream = of_stream AND live.topic_id = mine.topic_id AND live.partition = mine.partition
                  WHERE mine.stream = replay_stream
                    AND (live.next_offset IS NULL OR live.next_offset < mine.next_offset))
    THEN
        PERFORM public.exagg_replay_forget(replay_stream);
        INSERT INTO public.replays (replay, made_by, since, until)
        VALUES (replay_stream, function_and_settings, part_since, part_until);
    END IF;
    RETURN QUERY
        SELECT live.topic, live.topic_id, live.partition, mine.next_offset, live.next_offset, s.max_future_seconds
        FROM public.streams s
        JOIN public.progress live ON live.stream = s.stream
        LEFT JOIN public.progress mine
             ON mine.stream = replay_stream AND mine.topic_id = live.topic_id AND mine.partition = live.partition
        WHERE s.stream = of_stream
        ORDER BY live.topic, live.partition;
END
$$;

-- Whether a replay replaces all rows whatever they were made with: it is of the whole stream, and they were, or may
-- have been, made with other settings. Then a row is not expected to hold at least the records that it held.
CREATE OR REPLACE FUNCTION public.exagg_replay_resets(
    of_stream varchar, replay_stream varchar, since timestamp, until timestamp)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT since = '-infinity' AND until = 'infinity'
           AND (s.is_mixed OR s.made_with IS DISTINCT FROM r.made_with)
    FROM public.streams s, public.replays r WHERE s.stream = of_stream AND r.replay = replay_stream
$$;

-- What keeps a replay from replacing anything; null: nothing. A part cannot be replaced by rows of other settings: what
-- a setting moves over the part's edge would be lost, or counted twice.
CREATE OR REPLACE FUNCTION public.exagg_replay_refusal(
    of_stream varchar, replay_stream varchar, since timestamp, until timestamp)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('its rows were made with %s, and now the settings are %s: replay all of it (--from earliest, '
                  'without --to)', s.made_with, r.made_with)
    FROM public.streams s, public.replays r
    WHERE s.stream = of_stream AND r.replay = replay_stream AND s.made_with <> r.made_with
      AND (since <> '-infinity' OR until <> 'infinity')
$$;

-- Holds a stream still to the end of the transaction: its aggregators wait at their progress, its closers before the
-- fold. The lock of the stream comes first, as in their statements.
CREATE OR REPLACE FUNCTION public.exagg_replay_hold(of_stream varchar) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('exagg stream ' || of_stream, 0));
    PERFORM pg_advisory_xact_lock(hashtextextended('exagg replay ' || of_stream, 0));
    PERFORM FROM public.progress WHERE stream = of_stream ORDER BY topic_id, partition FOR UPDATE;
END
$$;

-- What becomes of each row, where the replay has read all that the live stream has. A row stays as it is where the
-- log may not hold all its records: they may be older than `log_begins`, or of a topic that is retired; or, where it was
-- made with the same settings, they are fewer than were counted.
CREATE OR REPLACE FUNCTION public.exagg_replay_diff(
    of_stream varchar, replay_stream varchar, log_begins timestamp, since timestamp, until timestamp)
RETURNS TABLE (outcome text, is_kept boolean, window_start timestamp, window_end timestamp, code varchar, records bigint,
               sum_vol double precision, min_vol double precision, max_vol double precision, first_edge varchar,
               last_edge varchar)
LANGUAGE sql STABLE AS $$
    WITH parts AS (
        SELECT w.stream = replay_stream AS is_new, w.window_start, w.window_end, w.code,
               sum(w.records)::int8 AS records, sum(w.sum_vol) AS sum_vol, min(w.min_vol) AS min_vol,
               max(w.max_vol) AS max_vol, min(w.first_edge) AS first_edge, max(w.last_edge) AS last_edge
        FROM public.pending_parts w
        WHERE w.stream IN (replay_stream, of_stream) AND w.window_start >= since AND w.window_end <= until
        GROUP BY 1, 2, 3, 4
    ), judged AS (
        SELECT k.*, a.records AS final_records,
               CASE
                   WHEN k.window_start < log_begins + s.max_future_seconds * interval '1 second'
                       THEN 'the log may not hold all its records any more'
                   WHEN resets AND k.window_start <= s.retired_until
                       THEN 'a topic that is retired may have had records of it'
                   WHEN NOT resets AND k.window_end - k.window_start <> s.window_seconds * interval '1 second'
                       THEN 'its length is not the stream''s'
                   WHEN NOT resets AND k.records IS NULL THEN 'none of its records is in the log'
                   WHEN NOT resets AND k.records < coalesce(a.records, 0) + coalesce(k.pending_records, 0)
                       THEN 'the log holds fewer records than were counted'
               END AS kept_for,
               s.watermark - s.allowed_lateness_seconds * interval '1 second' AS closed_before,
               k.records = a.records AND k.min_vol = a.min_vol AND k.max_vol = a.max_vol
                   AND public.exagg_edge_value(k.first_edge) = a.first_vol
                   AND public.exagg_edge_value(k.last_edge) = a.last_vol
                   AND abs(k.sum_vol - a.sum_vol) <= 1e-9 * abs(a.sum_vol) AS is_same
        FROM (SELECT window_start, window_end, code, n.records, n.sum_vol, n.min_vol, n.max_vol, n.first_edge,
                     n.last_edge, p.records AS pending_records
              FROM (SELECT * FROM parts WHERE is_new) AS n
              FULL JOIN (SELECT * FROM parts WHERE NOT is_new) AS p USING (window_start, window_end, code)
              FULL JOIN (SELECT window_start, window_end, code FROM public.aggregates
                         WHERE stream = of_stream AND window_start >= since AND window_end <= until) AS a
                   USING (window_start, window_end, code)) AS k
        CROSS JOIN (SELECT * FROM public.streams WHERE stream = of_stream) AS s
        CROSS JOIN public.exagg_replay_resets(of_stream, replay_stream, since, until) AS resets
        LEFT JOIN public.aggregates a
             ON a.stream = of_stream AND a.window_start = k.window_start AND a.window_end = k.window_end
                AND a.code = k.code
    )
    SELECT CASE
               WHEN kept_for IS NOT NULL THEN kept_for
               WHEN records IS NULL AND final_records IS NULL THEN 'no longer pending'
               WHEN records IS NULL THEN 'deleted'
               WHEN final_records IS NULL AND (closed_before IS NULL OR window_end > closed_before) THEN 'pending'
               WHEN final_records IS NULL THEN 'added'
               WHEN is_same AND pending_records IS NULL THEN 'unchanged'
               ELSE 'changed'
           END,
           kept_for IS NOT NULL, window_start, window_end, code, records, sum_vol, min_vol, max_vol, first_edge, last_edge
    FROM judged
$$;

-- Puts a replay's rows in the place of the live ones, and says what became of how many, with examples. The stream is
-- held still meanwhile. Where the replay has not read all that the live stream has, the only row is `behind`, and nothing
-- is done: so both hold the same records, and what is pending is replaced as well.
CREATE OR REPLACE FUNCTION public.exagg_replay_apply(
    of_stream varchar, replay_stream varchar, log_begins timestamp, since timestamp, until timestamp)
RETURNS TABLE (outcome text, is_kept boolean, row_count bigint, examples text[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    resets boolean := public.exagg_replay_resets(of_stream, replay_stream, since, until);
BEGIN
    PERFORM public.exagg_replay_hold(of_stream);
    IF EXISTS (SELECT FROM public.progress live
               LEFT JOIN public.progress mine
                    ON mine.stream = replay_stream AND mine.topic_id = live.topic_id
                       AND mine.partition = live.partition
               WHERE live.stream = of_stream AND mine.next_offset IS DISTINCT FROM live.next_offset)
    THEN
        RETURN QUERY SELECT 'behind', false, 0::int8, NULL::text[];
        RETURN;
    END IF;
    RETURN QUERY
    WITH diff AS MATERIALIZED (
        SELECT * FROM public.exagg_replay_diff(of_stream, replay_stream, log_begins, since, until)
    ), gone AS (
        DELETE FROM public.aggregates a USING diff d
        WHERE d.outcome = 'deleted' AND a.stream = of_stream AND a.window_start = d.window_start
          AND a.window_end = d.window_end AND a.code = d.code
    ), changed AS (
        UPDATE public.aggregates a SET
            avg_vol = d.sum_vol / d.records, records = d.records, sum_vol = d.sum_vol,
            min_vol = d.min_vol, max_vol = d.max_vol,
            first_vol = public.exagg_edge_value(d.first_edge), last_vol = public.exagg_edge_value(d.last_edge),
            first_edge = d.first_edge, last_edge = d.last_edge,
            revision = a.revision + 1, closed_at = clock_timestamp()
        FROM diff d
        WHERE d.outcome = 'changed' AND a.stream = of_stream AND a.window_start = d.window_start
          AND a.window_end = d.window_end AND a.code = d.code
    ), added AS (
        INSERT INTO public.aggregates
            (window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
             first_edge, last_edge)
        SELECT d.window_start, d.window_end, d.code, d.sum_vol / d.records, of_stream, d.records, d.sum_vol,
               d.min_vol, d.max_vol, public.exagg_edge_value(d.first_edge), public.exagg_edge_value(d.last_edge),
               d.first_edge, d.last_edge
        FROM diff d WHERE d.outcome = 'added'
    ), kept_parts AS (
        SELECT p.window_start, p.window_end, p.code, p.records, p.sum_vol, p.min_vol, p.max_vol, p.first_edge,
               p.last_edge
        FROM public.pending_parts p JOIN diff d USING (window_start, window_end, code)
        WHERE p.stream = of_stream AND d.is_kept
        UNION ALL
        SELECT d.window_start, d.window_end, d.code, d.records, d.sum_vol, d.min_vol, d.max_vol, d.first_edge,
               d.last_edge
        FROM diff d WHERE d.outcome = 'pending'
    ), state AS (
        DELETE FROM public.window_state w
        WHERE w.stream = of_stream AND w.window_start >= since AND w.window_end <= until
    ), batches AS (
        DELETE FROM public.window_batches b
        WHERE b.stream = of_stream AND b.window_start >= since AND b.window_end <= until
    ), pending AS (
        INSERT INTO public.window_batches
            (stream, window_end, window_start, codes, records, sum_vols, min_vols, max_vols, first_edges, last_edges,
             first_code, last_code)
        SELECT of_stream, k.window_end, k.window_start, array_agg(k.code ORDER BY k.code),
               array_agg(k.records ORDER BY k.code), array_agg(k.sum_vol ORDER BY k.code),
               array_agg(k.min_vol ORDER BY k.code), array_agg(k.max_vol ORDER BY k.code),
               array_agg(k.first_edge ORDER BY k.code), array_agg(k.last_edge ORDER BY k.code), min(k.code), max(k.code)
        FROM kept_parts k GROUP BY k.window_start, k.window_end
    ), counted AS (
        -- Only where all was read: else what is not among the replay's rejects may not have been looked at.
        UPDATE public.rejected_records r SET counted_at = clock_timestamp()
        WHERE r.stream = of_stream AND r.counted_at IS NULL AND since = '-infinity' AND until = 'infinity'
          AND EXISTS (SELECT FROM public.progress p
                      WHERE p.stream = replay_stream AND p.topic_id = r.topic_id AND p.partition = r.partition)
          AND (log_begins IS NULL OR r.window_start >= log_begins)
          AND NOT EXISTS (SELECT FROM public.rejected_records n
                          WHERE n.stream = replay_stream AND n.topic_id = r.topic_id AND n.partition = r.partition
                            AND n.record_offset = r.record_offset)
    ), rejects AS (
        INSERT INTO public.rejected_records
            (stream, topic, topic_id, partition, record_offset, window_start, reason, value_bytes, value)
        SELECT of_stream, n.topic, n.topic_id, n.partition, n.record_offset, n.window_start, n.reason, n.value_bytes,
               n.value
        FROM public.rejected_records n
        WHERE n.stream = replay_stream AND since = '-infinity' AND until = 'infinity'
        ON CONFLICT (stream, topic_id, partition, record_offset, (coalesce(window_start, '-infinity')))
            DO UPDATE SET counted_at = NULL
    )
    SELECT d.outcome, d.is_kept, count(*),
           (array_agg(d.window_start::text || ' ' || d.code ORDER BY d.window_start, d.code))[1:3]
    FROM diff d GROUP BY 1, 2 ORDER BY 2, 1;

    IF resets THEN
        UPDATE public.progress p SET max_event_time_us = (
            SELECT n.max_event_time_us FROM public.progress n
            WHERE n.stream = replay_stream AND n.topic_id = p.topic_id AND n.partition = p.partition)
        WHERE p.stream = of_stream;
        -- Where late records are rejected, a watermark that came of wrong times would go on rejecting.
        UPDATE public.streams s SET
            made_with = r.made_with,
            -- Rows that had to be kept are as they were made.
            is_mixed = log_begins IS NOT NULL OR s.retired_until IS NOT NULL,
            settings_revision = s.settings_revision + 1,
            candidate = NULL,
            watermark = CASE s.late WHEN 'reject' THEN least(s.watermark, seen.watermark) ELSE s.watermark END,
            closed_before = CASE WHEN s.closed_before IS NOT NULL THEN
                least(s.closed_before, seen.watermark - s.allowed_lateness_seconds * interval '1 second') END,
            updated_at = clock_timestamp()
        FROM public.replays r,
             (SELECT timestamp 'epoch' + min(p.max_event_time_us) * interval '1 microsecond' AS watermark
              FROM public.progress p WHERE p.stream = of_stream) AS seen
        WHERE s.stream = of_stream AND r.replay = replay_stream;
    END IF;
    PERFORM public.exagg_note('replay', of_stream, format('windows from %s to %s', since, until)
        || CASE WHEN resets THEN ', whatever they were made with' ELSE '' END);
    PERFORM public.exagg_replay_forget(replay_stream);
END
$$;
