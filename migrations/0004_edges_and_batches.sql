-- Layout 2 of what is pending: few partial aggregates of a batch are added to rows, as before; many are
-- kept as they come, packed in arrays, one row a batch and window, and folded once, when it closes.

-- Doubles are written so that they read back as the same.
SET LOCAL extra_float_digits = 1;

-- An edge is the first or last record of a window and code as one text: event time, topic, partition,
-- offset, value, with a space between. Compared as bytes (COLLATE "C", a topic has no space), edges stand
-- in the order of (event time, topic, partition, offset): the least is the first record, the greatest the
-- last. So min, max, least and greatest merge edges, and no sort is needed for it.

-- A number whose text stands in the number's order: hexadecimal, its count of digits before it as a
-- letter (b is one digit); negative ones as two's complement behind an a.
CREATE FUNCTION public.exagg_sortable(number bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN number < 0 THEN 'a' ELSE chr(97 + length(to_hex(number))) END || to_hex(number)
$$;

-- In the order of what the aggregator writes (`functions/aggregator/src/columns.rs`).
CREATE FUNCTION public.exagg_edge(
    time_us bigint, topic text, partition integer, record_offset bigint, value double precision)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT concat_ws(' ', public.exagg_sortable(time_us), topic, public.exagg_sortable(partition),
                     public.exagg_sortable(record_offset), value)
$$;

CREATE FUNCTION public.exagg_edge_value(edge text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT split_part(edge, ' ', 5)::double precision
$$;

-- Tables and views are made anew: who may use them is kept, and given again at the end.
CREATE TEMPORARY TABLE exagg_grants ON COMMIT DROP AS
SELECT c.relname::text AS relation, a.privilege_type AS privilege, a.is_grantable,
       CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'public'::regnamespace AND a.grantee <> c.relowner
  AND c.relname IN ('aggregates', 'window_state', 'live_aggregates', 'stream_status', 'exagg_metrics');

DROP VIEW public.live_aggregates, public.exagg_metrics, public.stream_status;
-- Both at once, in the order of the window-closer's statement: one that runs meanwhile waits, and
-- neither waits for the other.
LOCK TABLE public.window_state, public.aggregates IN ACCESS EXCLUSIVE MODE;

-- Both tables are made anew: columns that are dropped stay in each row, and slow every access down.
ALTER TABLE public.aggregates RENAME TO aggregates_of_layout_1;
ALTER INDEX public.aggregates_by_window RENAME TO aggregates_of_layout_1_by_window;
CREATE TABLE public.aggregates (
    window_start timestamp        NOT NULL,
    window_end   timestamp        NOT NULL,
    code         varchar          COLLATE "C" NOT NULL,
    avg_vol      double precision NOT NULL,
    stream       varchar          COLLATE "C" NOT NULL,
    records      bigint           NOT NULL,
    sum_vol      double precision NOT NULL,
    min_vol      double precision NOT NULL,
    max_vol      double precision NOT NULL,
    first_vol    double precision NOT NULL,
    last_vol     double precision NOT NULL,
    revision     integer          NOT NULL DEFAULT 0,
    closed_at    timestamptz      NOT NULL DEFAULT clock_timestamp(),
    first_edge   varchar          COLLATE "C" NOT NULL,
    last_edge    varchar          COLLATE "C" NOT NULL
);
INSERT INTO public.aggregates
SELECT window_start, window_end, code, avg_vol, stream, records, sum_vol, min_vol, max_vol, first_vol, last_vol,
       revision, closed_at,
       public.exagg_edge(first_time_us, first_topic, first_partition, first_offset, first_vol),
       public.exagg_edge(last_time_us, last_topic, last_partition, last_offset, last_vol)
FROM public.aggregates_of_layout_1
ORDER BY window_start, window_end, stream, code;
DROP TABLE public.aggregates_of_layout_1;
-- The only index. One by code as well costs more than all else of a final row where codes are many; who
-- reads long series of one code among very many can add (stream, code, window_start).
CREATE UNIQUE INDEX aggregates_by_window ON public.aggregates (window_start, window_end, stream, code);

ALTER TABLE public.window_state RENAME TO window_state_of_layout_1;
ALTER INDEX public.window_state_pkey RENAME TO window_state_of_layout_1_pkey;
CREATE TABLE public.window_state (
    stream       varchar          COLLATE "C" NOT NULL,
    window_end   timestamp        NOT NULL,
    window_start timestamp        NOT NULL,
    code         varchar          COLLATE "C" NOT NULL,
    topic        varchar          COLLATE "C" NOT NULL,
    partition    integer          NOT NULL,
    records      bigint           NOT NULL,
    sum_vol      double precision NOT NULL,
    min_vol      double precision NOT NULL,
    max_vol      double precision NOT NULL,
    first_edge   varchar          COLLATE "C" NOT NULL,
    last_edge    varchar          COLLATE "C" NOT NULL,
    PRIMARY KEY (stream, window_end, window_start, code, topic, partition)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
INSERT INTO public.window_state
SELECT stream, window_end, window_start, code, topic, partition, records, sum_vol, min_vol, max_vol,
       public.exagg_edge(first_time_us, topic, partition, first_offset, first_vol),
       public.exagg_edge(last_time_us, topic, partition, last_offset, last_vol)
FROM public.window_state_of_layout_1;
DROP TABLE public.window_state_of_layout_1;

-- What one batch adds to one window: the arrays are of one length, an element a code.
CREATE TABLE public.window_batches (
    stream       varchar            COLLATE "C" NOT NULL,
    window_end   timestamp          NOT NULL,
    window_start timestamp          NOT NULL,
    codes        varchar[]          COLLATE "C" NOT NULL,
    records      bigint[]           NOT NULL,
    sum_vols     double precision[] NOT NULL,
    min_vols     double precision[] NOT NULL,
    max_vols     double precision[] NOT NULL,
    first_edges  varchar[]          COLLATE "C" NOT NULL,
    last_edges   varchar[]          COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- Compression costs more CPU time than all of the fold, for rows that live a minute.
ALTER TABLE public.window_batches
    ALTER COLUMN codes SET STORAGE EXTERNAL,
    ALTER COLUMN records SET STORAGE EXTERNAL,
    ALTER COLUMN sum_vols SET STORAGE EXTERNAL,
    ALTER COLUMN min_vols SET STORAGE EXTERNAL,
    ALTER COLUMN max_vols SET STORAGE EXTERNAL,
    ALTER COLUMN first_edges SET STORAGE EXTERNAL,
    ALTER COLUMN last_edges SET STORAGE EXTERNAL;
CREATE INDEX window_batches_by_window ON public.window_batches (stream, window_end);

-- All that is pending, a row a partial aggregate.
CREATE VIEW public.pending_parts AS
SELECT stream, window_start, window_end, code, records, sum_vol, min_vol, max_vol, first_edge, last_edge
FROM public.window_state
UNION ALL
SELECT stream, window_start, window_end, unnest(codes), unnest(records), unnest(sum_vols), unnest(min_vols),
       unnest(max_vols), unnest(first_edges), unnest(last_edges)
FROM public.window_batches;

-- One row a key, closed and pending merged, without what a replay has under way. Final: closed, and
-- nothing pending.
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
       (SELECT count(*) FROM (SELECT w.window_start, w.window_end FROM public.window_state w
                              WHERE w.stream = s.stream
                              UNION
                              SELECT b.window_start, b.window_end FROM public.window_batches b
                              WHERE b.stream = s.stream) AS open) AS open_windows,
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

-- As before, over this layout.
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

CREATE OR REPLACE FUNCTION public.exagg_replay_forget(replay_stream varchar) RETURNS void LANGUAGE sql AS $$
    DELETE FROM public.window_state WHERE stream = replay_stream;
    DELETE FROM public.window_batches WHERE stream = replay_stream;
    DELETE FROM public.progress WHERE stream = replay_stream;
    DELETE FROM public.rejected_records WHERE stream = replay_stream;
    DELETE FROM public.replay_windows WHERE replay = replay_stream;
$$;

DO $$
DECLARE g record;
BEGIN
    FOR g IN
        SELECT relation, privilege, grantee, is_grantable FROM exagg_grants
        UNION ALL
        SELECT new.relation, privilege, grantee, is_grantable
        FROM exagg_grants old, (VALUES ('window_batches'), ('pending_parts')) AS new(relation)
        WHERE old.relation = 'window_state'
    LOOP
        EXECUTE format('GRANT %s ON public.%I TO %s%s', g.privilege, g.relation, g.grantee,
                       CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;

UPDATE public.window_state_layout SET version = 2;
