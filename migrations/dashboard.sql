-- What the dashboard and its API read by, as it is now: the second part of `definitions.sql`, applied with it. Each function
-- has a bound on what it looks at, so that it answers at once however many rows there are.

-- What is pending of one code in a window. Blocks of codes are sorted, and say between which codes they are; older ones do
-- not, and are looked through.
CREATE OR REPLACE FUNCTION public.exagg_pending_of_code(
    of_stream text, of_start timestamp, of_end timestamp, of_code text)
RETURNS TABLE (code varchar, records bigint, sum_vol double precision, min_vol double precision, max_vol double precision,
               first_edge varchar, last_edge varchar)
LANGUAGE sql STABLE AS $$
    SELECT w.code, w.records, w.sum_vol, w.min_vol, w.max_vol, w.first_edge, w.last_edge
    FROM public.window_state w
    WHERE w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start AND w.code = of_code
    UNION ALL
    SELECT b.codes[b.at], b.records[b.at], b.sum_vols[b.at], b.min_vols[b.at], b.max_vols[b.at], b.first_edges[b.at],
           b.last_edges[b.at]
    FROM (SELECT f.*, array_position(f.codes, of_code::varchar) AS at
          FROM (SELECT w.* FROM public.window_batches w
                WHERE w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start
                    AND (w.first_code IS NULL OR of_code COLLATE "C" BETWEEN w.first_code AND w.last_code)
                -- So that only these are looked into.
                OFFSET 0) AS f) AS b
    WHERE b.at IS NOT NULL
$$;

-- What is pending in a window of its first codes behind one (null: of its first): all parts of the first `codes_max`, and
-- maybe of more.
CREATE OR REPLACE FUNCTION public.exagg_pending_page(
    of_stream text, of_start timestamp, of_end timestamp, behind varchar, codes_max bigint)
RETURNS TABLE (code varchar, records bigint, sum_vol double precision, min_vol double precision, max_vol double precision,
               first_edge varchar, last_edge varchar)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    -- Of 256 codes each; of different batches they overlap.
    blocks bigint := greatest(codes_max / 256, 1);
    block_last varchar;
    up_to varchar;
    found_codes bigint;
BEGIN
    -- Blocks are looked into up to a code, so far that there are enough below it; null: all of them.
    LOOP
        SELECT b.last_code INTO block_last FROM public.window_batches b
        WHERE b.stream = of_stream AND b.window_end = of_end AND b.window_start = of_start
            AND b.last_code COLLATE "C" > coalesce(behind, '')
        ORDER BY b.last_code COLLATE "C" OFFSET blocks - 1 LIMIT 1;
        SELECT count(*), max(c.code COLLATE "C") INTO found_codes, up_to FROM (
            SELECT f.code FROM (
                (SELECT DISTINCT w.code FROM public.window_state w
                 WHERE w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start
                     AND w.code > coalesce(behind, '') COLLATE "C"
                 ORDER BY w.code LIMIT codes_max)
                UNION
                SELECT u.code FROM public.window_batches w, unnest(w.codes) AS u(code)
                WHERE w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start
                    AND (block_last IS NULL OR w.first_code IS NULL OR w.first_code <= block_last)
                    AND (w.last_code IS NULL OR w.last_code > coalesce(behind, '') COLLATE "C")) AS f(code)
            WHERE (block_last IS NULL OR f.code COLLATE "C" <= block_last) AND f.code COLLATE "C" > coalesce(behind, '')
            ORDER BY f.code COLLATE "C" LIMIT codes_max) AS c;
        EXIT WHEN found_codes >= codes_max OR block_last IS NULL;
        blocks := blocks * 4;
    END LOOP;
    RETURN QUERY
        SELECT w.code, w.records, w.sum_vol, w.min_vol, w.max_vol, w.first_edge, w.last_edge
        FROM public.window_state w
        WHERE w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start
            AND w.code <= up_to COLLATE "C" AND w.code > coalesce(behind, '') COLLATE "C"
        UNION ALL
        SELECT u.code, w.records[u.at], w.sum_vols[u.at], w.min_vols[u.at], w.max_vols[u.at], w.first_edges[u.at],
               w.last_edges[u.at]
        FROM public.window_batches w, unnest(w.codes) WITH ORDINALITY AS u(code, at)
        WHERE codes_max <= 200 AND w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start
            AND (w.first_code IS NULL OR w.first_code <= up_to COLLATE "C")
            AND (w.last_code IS NULL OR w.last_code > coalesce(behind, '') COLLATE "C")
            AND u.code <= up_to COLLATE "C" AND u.code > coalesce(behind, '') COLLATE "C"
        UNION ALL
        -- Where most of a block is wanted, to unpack it is cheaper than to pick.
        SELECT u.code, u.records, u.sum_vol, u.min_vol, u.max_vol, u.first_edge, u.last_edge
        FROM public.window_batches w,
             unnest(w.codes, w.records, w.sum_vols, w.min_vols, w.max_vols, w.first_edges, w.last_edges)
                 AS u(code, records, sum_vol, min_vol, max_vol, first_edge, last_edge)
        WHERE codes_max > 200 AND w.stream = of_stream AND w.window_end = of_end AND w.window_start = of_start
            AND (w.first_code IS NULL OR w.first_code <= up_to COLLATE "C")
            AND (w.last_code IS NULL OR w.last_code > coalesce(behind, '') COLLATE "C")
            AND u.code <= up_to COLLATE "C" AND u.code > coalesce(behind, '') COLLATE "C";
END
$$;

-- The windows of a stream in which something is pending, and which end after a time. From one window to the next by the
-- index: of many codes a window has as many rows.
CREATE OR REPLACE FUNCTION public.exagg_pending_windows(of_stream text, ends_after timestamp)
RETURNS TABLE (window_start timestamp, window_end timestamp) LANGUAGE sql STABLE AS $$
    WITH RECURSIVE windows AS (
        (SELECT w.window_end, w.window_start FROM public.window_state w
         WHERE w.stream = of_stream AND w.window_end > ends_after
         ORDER BY w.window_end, w.window_start LIMIT 1)
        UNION ALL
        SELECT n.window_end, n.window_start
        FROM windows, LATERAL (
            SELECT w.window_end, w.window_start FROM public.window_state w
            WHERE w.stream = of_stream
                AND (w.window_end, w.window_start) > (windows.window_end, windows.window_start)
            ORDER BY w.window_end, w.window_start LIMIT 1) AS n
    )
    SELECT window_start, window_end FROM windows
    UNION
    SELECT w.window_start, w.window_end FROM public.window_batches w
    WHERE w.stream = of_stream AND w.window_end > ends_after
$$;

-- Rows as `live_aggregates` has them, the newest window first and by stream and code within it, as far as asked for: of a
-- stream and a code (null: of all), of windows that start at `starts_from` or later and before `starts_before`, and end
-- after `ends_after`; behind the row that the page before ended with (null: the first page). Windows are looked at one by
-- one, so that what is not shown costs nothing: the view itself groups all that is there before it gives the first row.
-- After `windows_max` windows (null: no bound) it ends with a row without a code, behind which the next page begins.
CREATE OR REPLACE FUNCTION public.exagg_live_page(
    of_stream text, of_code text, starts_from timestamp, ends_after timestamp, starts_before timestamp,
    behind_start timestamp, behind_end timestamp, behind_stream text, behind_code text, rows_max bigint, windows_max bigint)
RETURNS SETOF public.live_aggregates LANGUAGE plpgsql STABLE ROWS 100 SET enable_seqscan = off SET jit = off AS $$
DECLARE
    rows_left bigint := rows_max;
    rows_now bigint;
    windows_left bigint := windows_max;
    -- The window that was looked at last; the page before may have ended within it.
    at_start timestamp := coalesce(behind_start, starts_before);
    at_end timestamp := coalesce(behind_end, '-infinity');
    is_within boolean := behind_start IS NOT NULL;
    final_start timestamp;
    final_end timestamp;
    pending_start timestamp;
    pending_end timestamp;
    pending_starts timestamp[];
    pending_ends timestamp[];
    next_pending integer := 1;
    among varchar[] := CASE WHEN of_stream IS NULL
        THEN ARRAY(SELECT s.stream FROM public.streams s ORDER BY s.stream) ELSE ARRAY[of_stream::varchar] END;
    one varchar;
    behind varchar;
BEGIN
    SELECT array_agg(p.window_start ORDER BY p.window_start DESC, p.window_end DESC),
           array_agg(p.window_end ORDER BY p.window_start DESC, p.window_end DESC)
    INTO pending_starts, pending_ends
    FROM (SELECT DISTINCT w.window_start, w.window_end
          FROM unnest(among) AS one(stream), public.exagg_pending_windows(one.stream, ends_after) AS w) AS p
    WHERE p.window_start >= starts_from AND (p.window_start, p.window_end) <= (at_start, at_end)
        AND (is_within OR p.window_start < starts_before);
    LOOP
        IF is_within THEN
            final_start := at_start;
            final_end := at_end;
        ELSE
            SELECT a.window_start, a.window_end INTO final_start, final_end FROM public.aggregates a
            WHERE (a.window_start, a.window_end) < (at_start, at_end) AND a.window_start >= starts_from
            ORDER BY a.window_start DESC, a.window_end DESC LIMIT 1;
        END IF;
        pending_start := pending_starts[next_pending];
        pending_end := pending_ends[next_pending];
        EXIT WHEN final_start IS NULL AND pending_start IS NULL;
        IF final_start IS NULL OR (pending_start, pending_end) > (final_start, final_end) THEN
            at_start := pending_start;
            at_end := pending_end;
        ELSE
            at_start := final_start;
            at_end := final_end;
        END IF;
        IF (at_start, at_end) = (pending_start, pending_end) THEN
            next_pending := next_pending + 1;
        ELSE
            pending_start := NULL;
        END IF;
        IF at_end > ends_after THEN
            FOREACH one IN ARRAY among LOOP
                CONTINUE WHEN is_within AND one < behind_stream COLLATE "C";
                behind := CASE WHEN is_within AND one = behind_stream COLLATE "C" THEN behind_code END;
                RETURN QUERY
                    SELECT at_start, at_end, p.code, sum(p.sum_vol) / sum(p.records)::double precision, one,
                           sum(p.records)::bigint, sum(p.sum_vol), min(p.min_vol), max(p.max_vol),
                           public.exagg_edge_value(min(p.first_edge)), public.exagg_edge_value(max(p.last_edge)),
                           max(p.revision), max(p.closed_at), bool_and(p.closed)
                    FROM (SELECT * FROM (
                              SELECT a.code, a.records, a.sum_vol, a.min_vol, a.max_vol, a.first_edge, a.last_edge,
                                     a.revision, a.closed_at, true AS closed
                              FROM public.aggregates a
                              WHERE a.window_start = at_start AND a.window_end = at_end AND a.stream = one
                                  -- As a range, so that a plan that is kept finds it by the index.
                                  AND a.code >= coalesce(of_code, '') COLLATE "C"
                                  AND a.code <= coalesce(of_code, repeat(chr(1114111), 300)) COLLATE "C"
                                  AND a.code > coalesce(behind, '') COLLATE "C"
                              ORDER BY a.code LIMIT rows_left) AS f
                          UNION ALL
                          SELECT s.code, s.records, s.sum_vol, s.min_vol, s.max_vol, s.first_edge, s.last_edge, NULL, NULL,
                                 false
                          FROM public.exagg_pending_of_code(one, at_start, at_end, of_code) s
                          WHERE pending_start IS NOT NULL AND of_code IS NOT NULL
                              AND s.code > coalesce(behind, '') COLLATE "C"
                          UNION ALL
                          SELECT s.code, s.records, s.sum_vol, s.min_vol, s.max_vol, s.first_edge, s.last_edge, NULL, NULL,
                                 false
                          FROM public.exagg_pending_page(one, at_start, at_end, behind, rows_left) s
                          WHERE pending_start IS NOT NULL AND of_code IS NULL) AS p
                    GROUP BY p.code ORDER BY p.code LIMIT rows_left;
                GET DIAGNOSTICS rows_now = ROW_COUNT;
                rows_left := rows_left - rows_now;
                -- Where it goes on from here, its last row says.
                IF rows_left <= 0 THEN
                    RETURN;
                END IF;
            END LOOP;
        END IF;
        is_within := false;
        windows_left := windows_left - 1;
        IF windows_left <= 0 THEN
            -- Behind all rows of this window: no stream's name is greater.
            RETURN QUERY SELECT at_start, at_end, NULL::varchar, NULL::double precision, chr(1114111)::varchar,
                NULL::bigint, NULL::double precision, NULL::double precision, NULL::double precision,
                NULL::double precision, NULL::double precision, NULL::integer, NULL::timestamptz, NULL::boolean;
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- The first page, however far it has to look.
CREATE OR REPLACE FUNCTION public.exagg_live(
    of_stream text, of_code text, starts_from timestamp, ends_after timestamp, starts_before timestamp, rows_max bigint)
RETURNS SETOF public.live_aggregates LANGUAGE sql STABLE ROWS 100 AS $$
    SELECT * FROM public.exagg_live_page(
        of_stream, of_code, starts_from, ends_after, starts_before, NULL, NULL, NULL, NULL, rows_max, NULL)
$$;

-- One code of a stream over time: of the windows that start in [starts_from, starts_before) and have the stream's present
-- length and slide, as many to a point as make at most `points_max` points. Of more than 10,000 windows only one of so many
-- is looked at. Null: no such stream.
CREATE OR REPLACE FUNCTION public.exagg_series(
    of_stream text, of_code text, starts_from timestamp, starts_before timestamp, points_max bigint)
RETURNS jsonb LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    length_s bigint;
    slide_s bigint;
    -- Starts of windows are aligned to the epoch.
    first_s bigint;
    windows bigint;
    one_of bigint;
    per_point bigint;
    points jsonb;
BEGIN
    SELECT s.window_seconds, s.slide_seconds INTO length_s, slide_s FROM public.streams s WHERE s.stream = of_stream;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    first_s := ceil(extract(epoch FROM starts_from) / slide_s)::bigint * slide_s;
    windows := greatest(ceil((extract(epoch FROM starts_before) - first_s) / slide_s)::bigint, 0);
    one_of := greatest(ceil(windows / 10000.0)::bigint, 1);
    per_point := greatest(ceil(ceil(windows / one_of::numeric) / points_max)::bigint, 1);
    SELECT coalesce(jsonb_agg(p.point ORDER BY p.number), '[]'::jsonb) INTO points FROM (
        SELECT r.number, jsonb_build_object(
            'time', to_char(timestamp 'epoch' + (first_s + r.number * per_point * one_of * slide_s) * interval '1 second',
                            'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            'avg', sum(r.sum_vol) / sum(r.records), 'min', min(r.min_vol), 'max', max(r.max_vol),
            'records', sum(r.records), 'is_final', bool_and(r.closed)) AS point
        FROM (SELECT n.number / per_point AS number, a.records, a.sum_vol, a.min_vol, a.max_vol, true AS closed
              FROM generate_series(0, (windows - 1) / one_of) AS n(number),
                   LATERAL (SELECT timestamp 'epoch' + (first_s + n.number * one_of * slide_s) * interval '1 second' AS at) AS w,
                   LATERAL (SELECT f.* FROM public.aggregates f
                            WHERE f.window_start = w.at AND f.window_end = w.at + length_s * interval '1 second'
                                AND f.stream = of_stream AND f.code = of_code OFFSET 0) AS a
              WHERE windows > 0
              UNION ALL
              SELECT w.at / one_of / per_point, p.records, p.sum_vol, p.min_vol, p.max_vol, false
              FROM (SELECT o.window_start, o.window_end,
                           (extract(epoch FROM o.window_start)::bigint - first_s) / slide_s AS at
                    FROM public.exagg_pending_windows(of_stream, starts_from) AS o
                    WHERE o.window_start >= starts_from AND o.window_start < starts_before
                        AND o.window_end = o.window_start + length_s * interval '1 second') AS w,
                   LATERAL public.exagg_pending_of_code(of_stream, w.window_start, w.window_end, of_code) AS p
              WHERE w.at % one_of = 0) AS r
        GROUP BY r.number) AS p;
    RETURN jsonb_build_object(
        'stream', of_stream, 'code', of_code,
        'from', to_char(starts_from, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), 'to', to_char(starts_before, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
        'windows_per_point', per_point, 'one_of_windows', one_of, 'points', points);
END
$$;

-- The newest windows of a stream, final and pending: at most `windows_max` of them, looking at no more than 2,000.
CREATE OR REPLACE FUNCTION public.exagg_newest_windows(of_stream text, windows_max bigint)
RETURNS TABLE (window_start timestamp, window_end timestamp)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    at_start timestamp := 'infinity';
    at_end timestamp := 'infinity';
    starts timestamp[] := '{}';
    ends timestamp[] := '{}';
    looks bigint := 2000;
BEGIN
    WHILE looks > 0 AND cardinality(starts) < windows_max LOOP
        SELECT a.window_start, a.window_end INTO at_start, at_end FROM public.aggregates a
        WHERE (a.window_start, a.window_end) < (at_start, at_end)
        ORDER BY a.window_start DESC, a.window_end DESC LIMIT 1;
        EXIT WHEN at_start IS NULL;
        looks := looks - 1;
        IF EXISTS (SELECT FROM public.aggregates a
                   WHERE a.window_start = at_start AND a.window_end = at_end AND a.stream = of_stream) THEN
            starts := starts || at_start;
            ends := ends || at_end;
        END IF;
    END LOOP;
    RETURN QUERY
        SELECT w.window_start, w.window_end
        FROM (SELECT u.s AS window_start, u.e AS window_end FROM unnest(starts, ends) AS u(s, e)
              UNION
              SELECT p.window_start, p.window_end FROM public.exagg_pending_windows(of_stream, '-infinity') AS p) AS w
        ORDER BY w.window_start DESC, w.window_end DESC LIMIT windows_max;
END
$$;

-- Codes of a stream that have a text in them, without regard to case; those that start with it come first. Among those of
-- its newest windows, of each the first 100,000: it looks at one after the other until it has enough, or 150 ms have
-- passed.
CREATE OR REPLACE FUNCTION public.exagg_codes(of_stream text, search text, codes_max bigint)
RETURNS jsonb LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    began timestamptz := clock_timestamp();
    wanted text := lower(search);
    found varchar[] := '{}';
    now_found varchar[];
    one record;
BEGIN
    FOR one IN SELECT w.window_start, w.window_end FROM public.exagg_newest_windows(of_stream, 20) AS w LOOP
        -- Those of a window are in the order of the code: of many that start with it, the first are enough.
        SELECT array_agg(f.code) INTO now_found FROM (
            SELECT c.code FROM (
                (SELECT a.code FROM public.aggregates a
                 WHERE a.window_start = one.window_start AND a.window_end = one.window_end AND a.stream = of_stream
                 ORDER BY a.code LIMIT 100000)
                UNION
                (SELECT p.code FROM public.pending_parts p
                 WHERE p.stream = of_stream AND p.window_end = one.window_end AND p.window_start = one.window_start
                 LIMIT 100000)) AS c
            WHERE strpos(lower(c.code), wanted) > 0 AND c.code <> ALL (found)
            ORDER BY NOT starts_with(lower(c.code), wanted), c.code COLLATE "C"
            LIMIT codes_max) AS f;
        found := found || coalesce(now_found, '{}');
        EXIT WHEN cardinality(found) >= codes_max OR clock_timestamp() > began + interval '150 ms';
    END LOOP;
    RETURN (SELECT coalesce(jsonb_agg(f.code), '[]'::jsonb) FROM (
        SELECT u.code FROM unnest(found) AS u(code)
        ORDER BY NOT starts_with(lower(u.code), wanted), u.code COLLATE "C" LIMIT codes_max) AS f);
END
$$;

-- What a window, or one code of it (null: all), is made of: the records that are final and those that are pending of its
-- first 2,000 codes, and between which offsets of which partitions their first and last records are.
CREATE OR REPLACE FUNCTION public.exagg_window(of_stream text, of_start timestamp, of_end timestamp, of_code text)
RETURNS jsonb LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN (
        WITH parts AS MATERIALIZED (
            (SELECT a.code, a.records, a.revision, a.closed_at, a.first_edge, a.last_edge, true AS closed
             FROM public.aggregates a
             WHERE a.window_start = of_start AND a.window_end = of_end AND a.stream = of_stream
                 AND a.code >= coalesce(of_code, '') COLLATE "C"
                 AND a.code <= coalesce(of_code, repeat(chr(1114111), 300)) COLLATE "C"
             ORDER BY a.code LIMIT 2001)
            UNION ALL
            SELECT p.code, p.records, NULL, NULL, p.first_edge, p.last_edge, false
            FROM public.exagg_pending_page(of_stream, of_start, of_end, NULL, 2001) AS p WHERE of_code IS NULL
            UNION ALL
            SELECT p.code, p.records, NULL, NULL, p.first_edge, p.last_edge, false
            FROM public.exagg_pending_of_code(of_stream, of_start, of_end, of_code) AS p WHERE of_code IS NOT NULL
        ), beyond AS (
            -- Each list has its first 2,001 codes: what is before the 2,001st of both is whole.
            SELECT c.code FROM (SELECT DISTINCT p.code FROM parts p) AS c ORDER BY c.code COLLATE "C" OFFSET 2000 LIMIT 1
        ), shown AS MATERIALIZED (
            SELECT p.* FROM parts p WHERE p.code COLLATE "C" < coalesce((SELECT b.code FROM beyond b), repeat(chr(1114111), 300))
        ), edges AS (
            SELECT split_part(e.edge, ' ', 2) AS topic,
                   ('x' || lpad(substr(split_part(e.edge, ' ', 3), 2), 16, '0'))::bit(64)::bigint AS partition,
                   ('x' || lpad(substr(split_part(e.edge, ' ', 4), 2), 16, '0'))::bit(64)::bigint AS record_offset
            FROM shown, LATERAL (VALUES (first_edge), (last_edge)) AS e(edge)
        ), stream AS (
            SELECT s.watermark - s.allowed_lateness_seconds * interval '1 second' AS closed_before
            FROM public.streams s WHERE s.stream = of_stream
        ), whole AS (
            SELECT count(DISTINCT code) AS codes, coalesce(sum(records), 0) AS records, max(revision) AS revision,
                   max(closed_at) AS closed_at, bool_or(NOT closed) AS is_pending
            FROM shown
        )
        SELECT jsonb_build_object(
            'stream', of_stream,
            'window_start', to_char(of_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            'window_end', to_char(of_end, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            'code', of_code,
            'state', CASE
                WHEN w.codes = 0 THEN 'empty'
                WHEN w.is_pending AND of_end <= (SELECT closed_before FROM stream) THEN 'closing'
                WHEN w.is_pending THEN 'open'
                WHEN w.revision > 0 THEN 'revised'
                ELSE 'final' END,
            'codes', w.codes, 'records', w.records, 'revision', w.revision,
            'closed_at', to_char(w.closed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            'is_partial', EXISTS (SELECT FROM beyond),
            'sources', (SELECT coalesce(jsonb_agg(to_jsonb(s) ORDER BY s.topic, s.partition), '[]'::jsonb)
                        FROM (SELECT topic, partition, min(record_offset) AS first_offset, max(record_offset) AS last_offset
                              FROM edges GROUP BY topic, partition) AS s))
        FROM whole w);
END
$$;

-- The newest windows of a stream, as `exagg_window` has them.
CREATE OR REPLACE FUNCTION public.exagg_windows(of_stream text, windows_max bigint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(public.exagg_window(of_stream, w.window_start, w.window_end, NULL) - 'sources' - 'code'
                              ORDER BY w.window_start DESC, w.window_end DESC), '[]'::jsonb)
    FROM public.exagg_newest_windows(of_stream, windows_max) AS w
$$;

-- All that the first screen is made of: the streams with their partitions, and what the hosts say of themselves. Times
-- are ages in seconds by PostgreSQL's clock.
CREATE OR REPLACE FUNCTION public.exagg_overview() RETURNS jsonb
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
DECLARE
    -- A standby has what was so a while ago.
    as_of timestamptz := CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END;
BEGIN
    RETURN jsonb_build_object(
        'now_us', (extract(epoch FROM clock_timestamp()) * 1000000)::int8,
        'hosts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'host', h.host,
                'started_ago', extract(epoch FROM clock_timestamp() - h.started_at),
                'seen_ago', extract(epoch FROM clock_timestamp() - h.seen_at),
                -- Nobody could say anything while the server was down.
                'silent_for', extract(epoch FROM least(coalesce(as_of, clock_timestamp()) - h.seen_at,
                                                       clock_timestamp() - pg_postmaster_start_time())),
                'state', h.state) ORDER BY h.started_at, h.host), '[]'::jsonb)
            FROM public.exagg_hosts h),
        'streams', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'stream', s.stream,
                'window_seconds', s.window_seconds,
                'slide_seconds', s.slide_seconds,
                'allowed_lateness_seconds', s.allowed_lateness_seconds,
                'idle_timeout_seconds', s.idle_timeout_seconds,
                'late', s.late,
                'watermark_us', (extract(epoch FROM s.watermark) * 1000000)::int8,
                'held_by', s.watermark_held_by,
                'updated_ago', extract(epoch FROM clock_timestamp() - s.updated_at),
                'open_windows', (SELECT count(*) FROM public.exagg_pending_windows(s.stream, '-infinity')),
                'first_pending_us', (SELECT (extract(epoch FROM least(
                        (SELECT w.window_end FROM public.window_state w WHERE w.stream = s.stream
                         ORDER BY w.stream, w.window_end LIMIT 1),
                        (SELECT b.window_end FROM public.window_batches b WHERE b.stream = s.stream
                         ORDER BY b.stream, b.window_end LIMIT 1))) * 1000000)::int8),
                'rejected', (SELECT count(*) FROM (SELECT FROM public.rejected_records r
                                                   WHERE r.stream = s.stream LIMIT 10000) AS r),
                'rejected_lately', (SELECT coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.records DESC, l.reason), '[]'::jsonb) FROM (
                    SELECT r.reason, count(*) AS records,
                           extract(epoch FROM clock_timestamp() - min(r.rejected_at)) AS first_ago
                    FROM (SELECT r.reason, r.rejected_at FROM public.rejected_records r
                          WHERE r.stream = s.stream AND r.rejected_at > clock_timestamp() - interval '5 minutes'
                          ORDER BY r.rejected_at DESC LIMIT 10000) AS r
                    GROUP BY r.reason) AS l),
                'gaps', (SELECT count(*) FROM (SELECT FROM public.gaps g WHERE g.stream = s.stream LIMIT 1000) AS g),
                'latest_gap', (SELECT jsonb_build_object(
                        'seen_ago', extract(epoch FROM clock_timestamp() - g.seen_at), 'topic', g.topic,
                        'partition', g.partition, 'from_offset', g.from_offset, 'next_offset', g.next_offset,
                        'reason', g.reason)
                    FROM public.gaps g WHERE g.stream = s.stream ORDER BY g.seen_at DESC LIMIT 1),
                'partitions', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                        'topic', p.topic,
                        'partition', p.partition,
                        'partition_count', p.partition_count,
                        'next_offset', p.next_offset,
                        'end_offset', p.end_offset,
                        'event_us', p.max_event_time_us,
                        'seen_ago', extract(epoch FROM clock_timestamp() - p.last_seen_at),
                        'silent_for', extract(epoch FROM clock_timestamp() - coalesce(p.last_record_at, p.first_seen_at)))
                        ORDER BY p.topic, p.partition), '[]'::jsonb)
                    FROM public.progress p WHERE p.stream = s.stream)) ORDER BY s.stream), '[]'::jsonb)
            FROM public.streams s));
END
$$;

-- How many of each reason were rejected in each minute of the last hour, of the latest 100,000.
CREATE OR REPLACE FUNCTION public.exagg_reject_counts(of_stream text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN (
        WITH latest AS MATERIALIZED (
            SELECT r.reason, r.rejected_at FROM public.rejected_records r
            WHERE r.stream = of_stream AND r.rejected_at > clock_timestamp() - interval '1 hour'
            ORDER BY r.rejected_at DESC LIMIT 100000
        )
        SELECT jsonb_build_object(
            'is_partial', (SELECT count(*) FROM latest) >= 100000,
            'counts', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'minute', to_char(c.minute AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                    'reason', c.reason, 'records', c.records) ORDER BY c.minute, c.reason), '[]'::jsonb)
                FROM (SELECT date_trunc('minute', rejected_at) AS minute, reason, count(*) AS records
                      FROM latest GROUP BY 1, 2) AS c)));
END
$$;

-- It was used by what stood in the place of exagg_pending_page.
DO $$
BEGIN
    IF to_regprocedure('public.exagg_pending_of_first(text,timestamp,timestamp,bigint)') IS NOT NULL THEN
        DROP FUNCTION public.exagg_pending_of_first(text, timestamp, timestamp, bigint);
    END IF;
END
$$;
