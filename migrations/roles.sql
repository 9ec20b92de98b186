-- Roles with no more rights than each stage needs. Not a migration: roles belong to the whole
-- server. Who owns the tables runs it, after `exagg migrate` and again after each later one:
--
--     psql -v ON_ERROR_STOP=1 -f migrations/roles.sql "$OWNER_URL"
--
-- It may be run any number of times, and for several databases of one server. The roles cannot log
-- in; users who can are made from them once, and their addresses given to the app:
--
--     CREATE ROLE aggregator LOGIN PASSWORD '…' IN ROLE exagg_writer;              -- aggregator_postgres_url
--     CREATE ROLE closer     LOGIN PASSWORD '…' IN ROLE exagg_closer;              -- closer_postgres_url
--     CREATE ROLE dashboard  LOGIN PASSWORD '…' IN ROLE exagg_reader;              -- dashboard_postgres_url, Grafana
--     CREATE ROLE host       LOGIN PASSWORD '…' IN ROLE exagg_reader, exagg_host, exagg_lease; -- postgres_url
--
-- docs/roles.md says what each may and may not do.

BEGIN;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['exagg_writer', 'exagg_closer', 'exagg_reader', 'exagg_values', 'exagg_lease', 'exagg_host'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    END LOOP;
    -- A stage has no use for tables of its own, which could fill the disk.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END
$$;

-- PostgreSQL 14 and databases that come from it let everybody create in this schema.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO exagg_writer, exagg_closer, exagg_reader, exagg_values, exagg_lease, exagg_host;

-- What was granted before goes first: this file is the whole of it.
REVOKE ALL ON
    public.aggregates, public.window_state, public.window_batches, public.progress, public.streams,
    public.rejected_records, public.gaps, public.replays, public.window_state_layout,
    public.exagg_cron_leases, public.exagg_claims, public.exagg_migrations, public.retention,
    public.operations, public.exagg_hosts,
    public.pending_parts, public.live_aggregates, public.stream_status, public.exagg_metrics
FROM PUBLIC, exagg_writer, exagg_closer, exagg_reader, exagg_values, exagg_lease, exagg_host;

-- What operators do (`exagg reset`, `forget`, `replay`, `drop`) is for who owns the tables, or was granted it by
-- name. The pure functions of edges stay everybody's.
REVOKE ALL ON FUNCTION
    public.exagg_apply,
    public.exagg_closer_look,
    public.exagg_live,
    public.exagg_live_page,
    public.exagg_pending_of_code,
    public.exagg_pending_page,
    public.exagg_pending_windows,
    public.exagg_newest_windows,
    public.exagg_series,
    public.exagg_codes,
    public.exagg_window,
    public.exagg_windows,
    public.exagg_overview,
    public.exagg_reject_counts,
    public.exagg_retire(varchar, varchar, varchar, text),
    public.exagg_note(varchar, varchar, text),
    public.exagg_stream_rows(varchar),
    public.exagg_drop(varchar),
    public.exagg_replay_begin(varchar, varchar, text, timestamp, timestamp),
    public.exagg_replay_resets(varchar, varchar, timestamp, timestamp),
    public.exagg_replay_refusal(varchar, varchar, timestamp, timestamp),
    public.exagg_replay_hold(varchar),
    public.exagg_replay_diff(varchar, varchar, timestamp, timestamp, timestamp),
    public.exagg_replay_apply(varchar, varchar, timestamp, timestamp, timestamp),
    public.exagg_replay_forget(varchar)
FROM PUBLIC, exagg_writer, exagg_closer, exagg_reader, exagg_values, exagg_lease, exagg_host;
GRANT EXECUTE ON FUNCTION public.exagg_edge_value(text) TO exagg_closer, exagg_reader;

-- The aggregators: what is pending, behind the fence. No final rows, and nothing that was written can be
-- deleted.
GRANT EXECUTE ON FUNCTION public.exagg_apply TO exagg_writer;
GRANT SELECT ON public.window_state_layout TO exagg_writer;
GRANT SELECT, INSERT,
      UPDATE (next_offset, end_offset, partition_count, consumer_group, max_event_time_us, last_record_at, last_seen_at)
      ON public.progress TO exagg_writer;
GRANT SELECT, INSERT, UPDATE (records, sum_vol, min_vol, max_vol, first_edge, last_edge)
      ON public.window_state TO exagg_writer;
GRANT INSERT ON public.window_batches, public.rejected_records, public.gaps TO exagg_writer;
-- How many values were kept, and none of them.
GRANT SELECT (stream, reason, rejected_at, keeps_value) ON public.rejected_records TO exagg_writer;
-- The settings of a stream, not its watermark. FOR SHARE (late = "reject") needs UPDATE on a column.
GRANT SELECT,
      INSERT (stream, window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds,
              max_future_seconds, late, made_with),
      UPDATE (window_seconds, slide_seconds, allowed_lateness_seconds, idle_timeout_seconds,
              max_future_seconds, late, made_with, is_mixed, updated_at)
      ON public.streams TO exagg_writer;
-- A replay's settings are told by the function as well, and the live one waits for it at its end.
GRANT SELECT (replay, held_until), UPDATE (made_with) ON public.replays TO exagg_writer;

-- The window-closer: watermarks, what is pending taken away, final rows, and what is past its retention.
GRANT EXECUTE ON FUNCTION public.exagg_closer_look TO exagg_closer;
GRANT SELECT ON public.window_state_layout, public.progress TO exagg_closer;
GRANT SELECT,
      UPDATE (watermark, watermark_held_by, closed_before, candidate, candidate_at, updated_at)
      ON public.streams TO exagg_closer;
GRANT SELECT, DELETE ON public.window_state, public.window_batches TO exagg_closer;
GRANT SELECT, INSERT, DELETE,
      UPDATE (avg_vol, records, sum_vol, min_vol, max_vol, first_vol, last_vol, first_edge, last_edge, revision,
              closed_at)
      ON public.aggregates TO exagg_closer;
-- A retention looks at the age of a row and at nothing else of it.
GRANT SELECT, UPDATE (next_at) ON public.retention TO exagg_closer;
GRANT SELECT (ctid, rejected_at), DELETE ON public.rejected_records TO exagg_closer;
GRANT SELECT (ctid, seen_at), DELETE ON public.gaps TO exagg_closer;

-- The dashboard, Grafana, and the host's /metrics, readiness and `exagg status`. Not the bytes of rejected records.
GRANT EXECUTE ON FUNCTION
    public.exagg_live, public.exagg_live_page, public.exagg_pending_windows, public.exagg_pending_of_code,
    public.exagg_pending_page, public.exagg_newest_windows, public.exagg_series, public.exagg_codes, public.exagg_window,
    public.exagg_windows, public.exagg_overview, public.exagg_reject_counts
    TO exagg_reader;
GRANT SELECT ON public.aggregates, public.window_state, public.window_batches, public.live_aggregates, public.pending_parts,
                public.progress, public.streams, public.stream_status, public.exagg_metrics, public.gaps,
                public.exagg_hosts, public.exagg_migrations, public.operations
      TO exagg_reader;
GRANT SELECT (rejected_at, stream, topic, topic_id, partition, record_offset, window_start, reason, value_bytes,
              counted_at)
      ON public.rejected_records TO exagg_reader;

-- Who may look into rejected records, which hold whatever somebody sent.
GRANT SELECT (value, keeps_value) ON public.rejected_records TO exagg_values;

-- What a host says of itself.
GRANT SELECT, INSERT, UPDATE (state, seen_at), DELETE ON public.exagg_hosts TO exagg_host;

-- Hosts whose cron stages share ticks ([exagg.cron] lease).
GRANT SELECT, INSERT, DELETE ON public.exagg_cron_leases TO exagg_lease;

COMMIT;
