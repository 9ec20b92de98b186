#!/usr/bin/env bash
# make mutants: takes one mechanism out at a time and sees that the test which guards it fails.
# Each line: file | what stands there | what stands there instead | test. Files are put back. The test is a case of
# tests/e2e, or, as unit:name, one of the host's crates that needs neither a broker nor a database.
# With --check it only sees that each mechanism and each test is still where the line says.
set -euo pipefail
cd "$(dirname "$0")/.."

mutants=(
'migrations/definitions.sql|        AND p.next_offset = from_offset\n|        AND from_offset IS NOT NULL\n|lost_answer'
'migrations/definitions.sql|        AND p.next_offset = from_offset\n|        AND from_offset IS NOT NULL\n|zombie'
'functions/aggregator/src/store.rs|$8, last_seen_at = clock_timestamp()\nWHERE stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $4|$8, last_seen_at = clock_timestamp()\nWHERE stream = $1 AND topic_id = $2 AND partition = $3 AND $4::int8 IS NOT NULL|kill_9_between'
'functions/aggregator/src/store.rs|$8, last_seen_at = clock_timestamp()\nWHERE stream = $1 AND topic_id = $2 AND partition = $3 AND next_offset = $4|$8, last_seen_at = clock_timestamp()\nWHERE stream = $1 AND topic_id = $2 AND partition = $3 AND $4::int8 IS NOT NULL|redelivered'
'functions/window/src/fence.rs|(Less, _) \| (Greater, Greater) => Decision::ResumeAt(progress)|(Less, _) \| (Greater, Greater) => Decision::AlreadyApplied|skipped'
'functions/window-closer/src/store.rs|records = a.records + excluded.records,|records = excluded.records,|one_host_three'
'functions/window/src/watermark.rs|.min_by_key(\|partition\| partition.max_event_time_us)|.max_by_key(\|partition\| partition.max_event_time_us)|full_speed'
'functions/window/src/watermark.rs|time.min(now.0)|time|fast_clock'
'functions/window/src/watermark.rs|(Some(closes_all.0.min(now.0 - idle_timeout_seconds \* MICROS_PER_SECOND)), Holder::Clock)|(None, Holder::Clock)|silent_source'
'functions/window/src/watermark.rs|(Some(closes_all.0.min(now.0 - idle_timeout_seconds \* MICROS_PER_SECOND)), Holder::Clock)|(Some(now.0 - idle_timeout_seconds \* MICROS_PER_SECOND), Holder::Clock)|a_day_of_history'
'host/runtime/src/factors/outbound_pg/pool.rs|client.batch_execute("DISCARD ALL")|client.batch_execute("SELECT 1")|trap_in_a_transaction'
'host/triggers/kafka/src/consumer.rs|.set("isolation.level", "read_committed")|.set("isolation.level", "read_uncommitted")|only_committed'
'host/triggers/kafka/src/partition.rs|bounds.next.max(self.stage.log.known_end(&self.source.partition).unwrap_or_default())|bounds.next|open_transaction'
'host/triggers/kafka/src/dispatch.rs|_ if verdict != CallVerdict::Accepted => reason,|_ if false => reason,|a_version_that_fails'
'host/exagg/src/admin.rs|Method::POST if through == Through::Socket \|\| self.has_token(&request) => self.change(request).await,|Method::POST => self.change(request).await,|without_its_token'
'migrations/definitions.sql|AND (SELECT l.version FROM public.window_state_layout l) = layout|AND (SELECT l.version FROM public.window_state_layout l) < layout + 9|another_layout'
'migrations/definitions.sql|WHEN NOT resets AND k.records < coalesce|WHEN false AND k.records < coalesce|listed_and_left'
'migrations/definitions.sql|AND mine.next_offset IS DISTINCT FROM live.next_offset)\n    THEN|AND false)\n    THEN|a_stream_that_is_written_all_the_while'
'migrations/definitions.sql|max_event_time_us = (\n            SELECT n.max_event_time_us|max_event_time_us = (\n            SELECT p.max_event_time_us|times_that_were_ahead'
'functions/aggregator/src/store.rs|FROM known WHERE changed AND NOT $10::bool|FROM known WHERE false AND NOT $10::bool|a_series_is_as_if'
'migrations/definitions.sql|AND r.held_until > clock_timestamp())|AND r.held_until > clock_timestamp() + interval '"'1 hour'"')|a_stream_that_is_written_all_the_while'
'functions/window-closer/src/store.rs|    FROM gate\n    WHERE (SELECT version|    FROM (SELECT) AS gate\n    WHERE (SELECT version|a_replay_and_a_closer'
'host/triggers/kafka/src/batch.rs|self.limits.headers \|\| unpack::has_cut()|!self.limits.headers \|\| unpack::has_cut()|headers_are_given'
'functions/window-closer/src/store.rs|Some("40P01" \| "40001" \| "23505")|Some("40P01" \| "40001")|a_row_that_another_closer'
'host/triggers/kafka/src/config.rs|.find(\|name\| !OF_APPS.contains(|.find(\|name\| false && !OF_APPS.contains(|an_app_sets'
'host/runtime/src/engine/store.rs|let same = bytes|let same = true \|\| bytes|compiled_code'
'host/runtime/src/factors/outbound_pg/weight.rs|let bytes = bytes as u64;\n        self.total|let bytes = bytes as u64 / 1000;\n        self.total|rows_of_nothing'
'host/runtime/src/factors/outbound_pg/query.rs|connection.client.end(client).await;||a_statement_is_ended'
'host/runtime/src/engine/compiler.rs|set_parent_process_death_signal(Some(rustix::process::Signal::KILL))|set_parent_process_death_signal(None)|a_compiler_ends'
'host/triggers/kafka/src/fetch.rs|(self.queues_kib / partitions.max(1))|(self.queues_kib / 16)|many_partitions'
'host/runtime/src/app.rs|Some(error) if errors.len() + 1 == all|Some(error)|a_component_that_does_not'
'host/exagg/src/admin/origin.rs|headers.contains_key(header::ORIGIN) \|\| !site|headers.contains_key(header::ORIGIN) && site|other_origins'
'host/runtime/src/factors/key_value/quota.rs|after.check(before).map_err(\|full\| wit::Error::Other(full.to_string()))?;|let _ = after.check(before);|a_store_has_a_quota'
'host/pipeline/src/migrate.rs|(!known.keys().any(is_later)).then_some(DEFINITIONS)|Some(DEFINITIONS)|newer_definitions'
'host/triggers/kafka/src/partition/position.rs|self.position = start.min(committed);|self.position = committed;|an_emptied_database'
'functions/aggregator/src/store.rs|CASE WHEN $3 >= known.first THEN 0::int8 ELSE $5::int8 END|$5::int8|partitions_added_while_the_groups'
'host/pipeline/src/migrate.rs|ensure!(plan.foreign.is_empty(),|ensure!(true \|\| plan.foreign.is_empty(),|tables_of_others'
'host/pipeline/src/migrate.rs|if plan.pending.is_empty() {|if false {|who_may_only_read'
'host/pipeline/src/requirements.rs|if self.encoding != "UTF8" {|if false {|a_server_that_cannot'
'host/exagg/src/run/database.rs|Err(error) if is_transient(&error) =>|Err(error) if false =>|a_connection_that_ends_during'
'host/pipeline/src/watch.rs|let pending = pending(&self.database, client).await?;|let pending: Vec<&str> = Vec::new();|a_database_that_is_not_migrated'
'host/pipeline/src/migrate.rs|Some(&SqlState::T_R_DEADLOCK_DETECTED) if tries < TRIES_MAX => {|Some(&SqlState::T_R_DEADLOCK_DETECTED) if tries < 1 => {|a_migration_that_deadlocks'
'host/exagg/src/admin.rs|if !self.triggers.serve_requests() {|if true {|an_api_that_fails'
'host/exagg/src/run.rs|shutdown.drain.cancelled() => {\n            tracing::info!("stopped before|shutdown.abort.cancelled() => {\n            tracing::info!("stopped before|a_signal_during'
'host/exagg/src/run/stages.rs|if self.triggers.serve_requests() { self.drain.delay }|if false { self.drain.delay }|requests_are_answered_while'
'host/exagg/src/embedded/postgres.rs|if !kept.is_wanted.load(Ordering::Acquire) {\n                break;|if true {\n                break;|a_database_that_dies'
'host/exagg/src/embedded/place.rs|self.folder.join(format!("{SETUP}{}", uuid::Uuid::new_v4().simple()))|self.folder.join("data")|a_set_up_that_was_cut_off'
'host/triggers/kafka/src/sys.rs|(epoch >= 0).then_some(epoch)\n    }\n\n    /// Calls|None.filter(\|_: &i32\| epoch < 0)\n    }\n\n    /// Calls|a_log_that_lost_its_tail'
'host/triggers/kafka/src/partition.rs|let epoch = self.read_to.map(\|read_to\| read_to.leader_epoch);|let epoch = None;|unit:a_tail_that_was_lost_while'
'host/triggers/kafka/src/partition.rs|            never = ahead.keep_filling(self.tap(next)) => match never {},\n||unit:the_next_batch_fills_while'
'host/runtime/src/instance/reuse.rs|Some(kept.version) == version && Instant|version.is_some() && Instant|an_instance_serves_again'
'host/runtime/src/instance.rs|result.as_ref().is_ok_and(is_good)|result.as_ref().is_ok_and(is_good) \|\| true|an_instance_serves_again'
'host/runtime/src/instance.rs|kept.calls < reuse.calls_max|reuse.calls_max > 0|an_instance_serves_again'
'host/runtime/src/factors/outbound_pg/pool.rs|by == version \|\| is_cleaned|true \|\| is_cleaned|an_instance_serves_again'
'host/runtime/src/factors/outbound_pg/pool.rs|                    self.all.close_one();\n                    tokio|                    tokio|streams_beyond'
'functions/aggregator/src/columns.rs|window.sorted().chunks(BLOCK_CODES)|window.codes.iter().map(\|(code, partial)\| (code.as_ref(), partial)).collect::<Vec<_>>().chunks(BLOCK_CODES)|windows_of_many_codes'
'migrations/definitions.sql|exagg_closer_look() RETURNS jsonb LANGUAGE plpgsql STABLE SET enable_seqscan = off|exagg_closer_look() RETURNS jsonb LANGUAGE plpgsql STABLE SET enable_seqscan = on|a_plan_that_is_kept'
'migrations/definitions.sql|b.codes[1], b.codes[cardinality(b.codes)]|b.codes[1], b.codes[1]|windows_of_many_codes'
'host/triggers/kafka/src/partition.rs|        self.ahead.clear();\n||unit:what_was_read_ahead_is_read_again'
'host/triggers/kafka/src/partition.rs|                turn.give_back();\n||unit:who_is_held_up_gives'
'host/triggers/kafka/src/partition.rs|if ahead.next_records() < LARGE_RECORDS {|if true {|unit:large_batches_take_turns'
'host/triggers/cron/src/wake.rs|        self.left = self.left.saturating_sub(1);\n||unit:who_is_woken_all_the_time'
'spin.toml|wake_on = "exagg_closable"\n||a_window_is_closed_as_soon'
'host/triggers/kafka/src/log.rs|end.unwrap_or(Offset(self.next_offset.0 - 1))|end.unwrap_or(self.next_offset)|unit:a_log_that_does_not_know'
'host/triggers/kafka/src/stage.rs|stage.state.answers(answers);||unit:a_stage_without_partitions_notices'
'host/triggers/kafka/src/status.rs|if self.joining.load(Ordering::Relaxed) {|if false {|unit:a_stage_that_is_no_member'
'host/triggers/kafka/src/partition.rs|() = tokio::time::sleep(ANSWER_EXPECTED) => {}|() = std::future::pending() => {}|unit:a_cluster_that_takes_long'
'host/triggers/kafka/src/partition.rs|while self.stage.dispatcher.digest() == stopped {|while !stopped.is_empty() {|unit:a_stopped_partition_goes_on'
'host/triggers/kafka/src/partition.rs|if self.is_initialising && since.elapsed() >= ASK_AGAIN {|if false {|unit:a_partition_that_is_stopped_at_its_start'
'host/triggers/kafka/src/stage.rs|stage.state.missing_topics(missing.clone());||unit:a_topic_that_does_not_exist'
'host/triggers/kafka/src/partition.rs|if self.resumed > RESUMED_MAX {|if false {|unit:a_function_that_only_asks'
'host/triggers/kafka/src/partition/position.rs|if source.partition.partition.0 >= self.first_partition_count {|if false {|unit:a_partition_that_was_added_later'
'host/triggers/kafka/src/partition/position.rs|if self.position > bounds.next {|if false {|unit:a_log_that_lost_what_was_applied'
'host/triggers/kafka/src/partition.rs|if described.id != self.source.topic_id {|if false {|unit:a_recreated_topic_is_not_read_on'
'host/triggers/kafka/src/partition.rs|if self.stalled > STALLED_MAX {|if self.stalled > 1_000 {|unit:records_that_do_not_come_are_asked_for'
'host/triggers/kafka/src/stage.rs|Some(Event::RebalanceFailed(reason)) => self.stage.state.rebalanced(Err(reason)),|Some(Event::RebalanceFailed(reason)) => drop(reason),|unit:a_rebalance_that_failed_keeps'
'host/triggers/kafka/src/stage.rs|                cancel.cancel();\n            }\n        }|                let _ = cancel;\n            }\n        }|unit:a_partition_that_comes_again_waits'
'host/runtime/src/factors/outbound_pg/pool.rs|self.all.close_one();||a_pooler_with_fewer'
'host/runtime/src/instance.rs|waits.latest().unwrap_or_else(|None.unwrap_or_else(|an_app_of_ones_own'
'host/triggers/kafka/src/consumer/group.rs|if is_left_behind {|if false {|a_topic_that_grows'
'host/triggers/kafka/src/stage.rs|tokio::time::timeout(LEAVE, Log::leave(log))|tokio::time::timeout(std::time::Duration::MAX, Log::leave(log))|unit:a_group_that_cannot_be_left'
'host/triggers/kafka/src/consumer/committer.rs|Some(Err(error)) => member.not_committed(&list, &error),|Some(Err(_)) => {}|unit:a_commit_that_the_broker'
'host/triggers/kafka/src/consumer/rounds.rs|generation != Some(revoked_in)|false|unit:an_assignment_of_another'
'host/triggers/kafka/src/stage.rs|            ended.await;\n            drop(done);|            drop(done);\n            ended.await;|unit:a_revoked_partition_goes_when'
'host/triggers/kafka/src/dispatch.rs|_ if verdict != CallVerdict::Accepted => reason,|_ if false => reason,|unit:a_version_that_fails_its_trial'
'host/triggers/kafka/src/dispatch.rs|&& self.slot.reinstate(candidate, &reason)|&& false|unit:a_version_on_trial_that_meets'
'host/triggers/kafka/src/dispatch.rs|&& (piece.offsets.len() <= 1 \|\| first.is_same_record(failure))||unit:a_version_that_fails_at_everything'
'host/triggers/kafka/src/status.rs|if stopped.is_some() {|if false {|unit:a_stopped_partition_keeps'
'host/triggers/kafka/src/stage.rs|stage.state.ends_at(&partition, bounds.next);|let _ = bounds;|unit:the_lag_of_a_partition'
'host/app/src/oci.rs|(Err(error), Some(before)) if is_away(&error) => {|(Err(error), Some(before)) if false => {|unit:what_is_here_is_run'
'functions/aggregator/src/apply.rs|aggregate.keep_values(store.values_kept(settings).await?);||a_reason_keeps_so_many'
'host/pipeline/src/replay.rs|if resets != Some(true) \|\| self.course.accepts_compacted {|if true {|a_compacted_log_makes'
'host/app/src/oci.rs|(Err(error), Some(before)) if is_away(&error) => {|(Err(error), Some(before)) if false => {|pods_start_again_while'
'deploy/compose.yaml|    volumes:\n      - kafka:/var/lib/kafka/data\n||down_and_up_goes_on'
'host/triggers/cron/src/stage.rs|context.clock.now().max(next)|context.clock.now()|unit:a_clock_that_is_set_back'
'functions/dashboard/src/overview/health/reading.rs|    unattended(facts, streams, findings);\n||each_fault_is_told'
'functions/dashboard/src/overview/health/reading.rs|    closer(facts, findings);\n||each_fault_is_told'
'functions/dashboard/src/overview/health/results.rs|        held(facts, stream, shown, findings);\n||each_fault_is_told'
'migrations/dashboard.sql|                                  AND a.code > coalesce(behind, '"''"') COLLATE "C"\n||pages_of_rows_give'
'host/exagg/src/heartbeat.rs|const EVERY: Duration = Duration::from_secs(2);|const EVERY: Duration = Duration::from_secs(2_000);|each_fault_is_told'
'host/triggers/http/src/shared.rs|.filter(\|flight\| flight.has_changed().is_ok())||unit:a_call_that_comes_to_nothing'
'host/triggers/http/src/shared.rs|if is_private \|\| varies \|\| headers.contains_key(header::SET_COOKIE) {|if is_private {|unit:an_answer_is_shared_only'
'host/triggers/http/src/shared.rs|answers.shares.get(&key.route) == Some(&false)|false|unit:an_answer_is_shared_only'
)

restore() { if [ -n "${file:-}" ] && [ -f "$file.kept" ]; then mv "$file.kept" "$file"; touch "$file"; fi; }
trap restore EXIT

# Built again and again, and not for speed. What is left in target/ is built anew by the next make.
export CARGO_INCREMENTAL=1
quick=(--config profile.release.package.e2e.opt-level=1)
host=()
for package in exagg exagg-pipeline exagg-trigger-{kafka,cron,http} exagg-runtime exagg-clients exagg-unpack exagg-app exagg-common; do
    quick+=(--config "profile.release.package.$package.opt-level=1")
    host+=(-p "$package")
done

build() {
    cargo build --quiet --profile function --target wasm32-wasip2 -p aggregator -p window-closer -p fetcher -p dashboard -p guest
    cargo build --quiet --release "${quick[@]}" -p exagg
}

# Builds what a test runs: what does not compile is no mutant, and ends the run.
prepare() {
    case $1 in
    unit:*) cargo test --quiet --release "${quick[@]}" --lib --no-run "${host[@]}" ;;
    *)
        build
        cargo test --quiet --release "${quick[@]}" -p e2e --test suite --no-run
        ;;
    esac
}

run() {
    case $1 in
    unit:*) cargo test --quiet --release "${quick[@]}" --lib "${host[@]}" -- "${1#unit:}" ;;
    *) cargo test --quiet --release "${quick[@]}" -p e2e --test suite -- "$1" ;;
    esac
}

check=
if [ "${1:-}" = --check ]; then
    check=yes
    shift
fi
survived=0
# FROM=n goes on at line n of the list: the whole takes hours.
for mutant in "${mutants[@]:$((${FROM:-1} - 1))}"; do
    # A bar within a field is written \|, a line break \n.
    IFS=$'\x1f' read -r file from to filter <<<"$(sed 's/\\|/\x1e/g; s/|/\x1f/g; s/\x1e/|/g' <<<"$mutant")"
    [ -z "${1:-}" ] || [[ "$file$filter" == *"$1"* ]] || continue
    from=${from//\\\*/*}
    if ! FROM=$from perl -0ne '
        BEGIN { ($from) = map { s/\\n/\n/gr } $ENV{FROM} }
        exit(index($_, $from) < 0)' "$file"; then
        echo "not found in $file: $from"
        exit 1
    fi
    name=${filter#unit:}
    tests=(tests/e2e/tests/cases/*.rs)
    [ "$name" = "$filter" ] || tests=(host/*/src host/triggers/*/src)
    if ! grep -rq "fn [a-z0-9_]*${name}[a-z0-9_]*(" "${tests[@]}"; then
        echo "no test is called $name"
        exit 1
    fi
    [ -z "$check" ] || continue
    cp "$file" "$file.kept"
    FROM=$from TO=$to perl -0pi -e '
        BEGIN { ($from, $to) = map { s/\\n/\n/gr } $ENV{FROM}, $ENV{TO} }
        s/\Q$from\E/$to/' "$file"
    prepare "$filter"
    if run "$filter" >target/mutant.log 2>&1; then
        echo "SURVIVED  $filter: $file"
        survived=$((survived + 1))
    else
        echo "noticed   $filter: $file"
        # By what: a test that fails for another reason notices nothing.
        grep -aE -A1 "panicked at" target/mutant.log | grep -avE "^--|panicked at" | cut -c1-160 | sed 's/^/    /' | head -1
    fi
    restore
done
[ -z "$check" ] || exit 0
build
exit "$survived"
