//! The cases, by what they show.

mod advertised;
mod api;
mod bombs;
mod clients;
mod closer;
mod cluster;
mod commands;
mod compose;
mod corrected;
mod dashboard;
mod embedded;
mod equal;
mod faults;
mod fence;
mod foreign;
mod guests;
mod image;
mod limits;
mod links;
mod logs;
mod neighbours;
mod newcomer;
mod packed;
mod page;
mod plugin;
mod records;
mod registry;
mod replay;
mod roles;
mod spinkube;
mod starts;
mod streams;
mod swap;
mod templates;
mod truth;
mod windows;

pub use e2e::{exchange, now, topic, utc};

use e2e::database::{Database, Server};
use e2e::host::Setup;
use e2e::kafka::Kafka;

/// What all tests share.
pub struct World {
    pub postgres: Server,
    pub kafka: Option<Kafka>,
}

#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub needs: Need,
    pub run: fn(&World),
}

/// What a case needs beside PostgreSQL; where it is missing the case is skipped, but not in CI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Nothing,
    /// Apache Kafka (`make kafka`: Java and Maven).
    Kafka,
    /// And Debian's docker-registry.
    Registry,
    /// And skopeo, setcap, and root, to unpack and run the image.
    Image,
    /// And Prometheus' promtool.
    Promtool,
    /// And PgBouncer.
    Pooler,
}

/// `case!(module::function)`, and others for those that need more.
macro_rules! case {
    ($($path:ident)::+) => { Case { name: stringify!($($path)::+), needs: Need::Nothing, run: $($path)::+ } };
}
macro_rules! kafka {
    ($($path:ident)::+) => { Case { name: stringify!($($path)::+), needs: Need::Kafka, run: $($path)::+ } };
}
macro_rules! registry {
    ($($path:ident)::+) => { Case { name: stringify!($($path)::+), needs: Need::Registry, run: $($path)::+ } };
}

pub fn all() -> Vec<Case> {
    [of_the_pipeline(), of_the_host(), of_the_page(), of_starts_and_words()].concat()
}

/// What people look at, in a browser.
fn of_the_page() -> Vec<Case> {
    vec![
        case!(page::pages_of_rows_give_each_row_once),
        case!(page::the_page_works_behind_a_prefix),
        kafka!(page::the_page_shows_what_runs_by_itself),
        kafka!(page::the_api_answers_as_its_document_says),
        kafka!(page::each_fault_is_told_with_its_cause_and_command),
    ]
}

/// What the rows come to, whatever happens.
fn of_the_pipeline() -> Vec<Case> {
    vec![
        case!(embedded::live_rows_at_once_final_rows_soon_and_a_restart_goes_on),
        case!(embedded::nothing_is_doubled_or_orphaned_by_kill_9),
        case!(embedded::a_set_up_that_was_cut_off_is_begun_anew),
        case!(embedded::a_database_that_dies_is_started_again),
        kafka!(equal::two_million_keyed_records),
        kafka!(equal::two_million_records_without_keys_and_a_kill_in_the_middle),
        kafka!(records::each_bad_record_is_rejected_once_and_its_neighbours_count),
        kafka!(windows::any_field_names_formats_and_hopping_windows),
        kafka!(streams::a_topic_of_ones_own_is_averaged_after_two_commands),
        case!(streams::a_place_or_a_format_that_is_none_is_refused_at_the_start),
        kafka!(windows::late_records_revise_or_are_rejected),
        kafka!(windows::an_idle_partition_does_not_hold_and_a_lagging_one_does),
        kafka!(windows::a_silent_source_is_closed_by_the_clock),
        kafka!(commands::what_would_harm_a_stream_is_refused_and_what_is_done_is_written_down),
        kafka!(commands::a_reason_keeps_so_many_values_in_a_minute_and_all_its_records),
        kafka!(commands::rejects_are_counted_once_filtered_and_known_when_a_replay_counts_them),
        kafka!(commands::the_default_answers_hold_windows_that_run_whatever_their_length),
        kafka!(closer::a_window_is_closed_as_soon_as_it_can_be),
        case!(closer::a_plan_that_is_kept_reads_no_more_when_much_is_pending),
        kafka!(closer::a_stream_that_cannot_be_closed_holds_no_other),
        kafka!(closer::a_retention_that_fails_hides_no_stream_and_is_said),
        kafka!(windows::a_day_of_history_after_silence_is_not_late),
        kafka!(windows::a_fast_clock_makes_no_honest_record_late),
        kafka!(windows::a_day_read_at_full_speed_equals_the_day_read_as_it_came),
        kafka!(windows::time_zones_and_daylight_saving_change_nothing),
        kafka!(packed::windows_of_many_codes_are_packed_folded_once_and_revised),
        kafka!(packed::a_row_that_another_closer_adds_first_is_merged_with),
        kafka!(packed::what_layout_1_holds_is_kept),
        kafka!(fence::redelivered_records_are_not_counted_again),
        kafka!(fence::skipped_records_are_read_after_all),
        kafka!(fence::a_topic_that_grows_while_partitions_go_is_read_to_its_end),
        kafka!(fence::deleted_records_are_a_gap_and_stop_the_partition),
        kafka!(fence::deleted_records_are_skipped_where_told_so),
        kafka!(fence::records_deleted_under_a_running_reader_are_skipped_where_told_so),
        kafka!(fence::a_recreated_topic_stops_loudly_until_it_is_reset),
        kafka!(fence::partitions_added_later_are_read_from_their_start),
        kafka!(fence::two_stages_do_not_take_turns_at_the_settings_of_a_stream),
        kafka!(fence::partitions_added_while_the_groups_offsets_are_gone_are_read),
        kafka!(fence::an_emptied_database_is_filled_again_whatever_the_group_committed),
        kafka!(fence::a_database_from_before_a_partition_was_added_has_it_read_from_its_start),
        kafka!(fence::a_stream_first_seen_starts_at_the_end),
        kafka!(faults::kill_9_between_the_write_and_the_commit),
        kafka!(faults::a_lost_answer_is_not_applied_again),
        kafka!(faults::sigterm_in_the_middle_of_a_batch_ends_it_first),
        kafka!(faults::a_partition_is_revoked_with_a_batch_in_flight),
        kafka!(faults::a_zombie_applies_nothing_twice),
        kafka!(faults::a_slow_batch_outlives_max_poll),
        kafka!(faults::postgresql_is_away_under_load),
        kafka!(faults::kafka_is_away_under_load),
        kafka!(faults::a_broker_dies_and_another_leads),
        kafka!(faults::scaled_to_nothing_and_back_without_committed_offsets),
        kafka!(faults::one_host_three_and_one_again_give_the_same_rows),
        kafka!(logs::only_committed_transactions_count),
        kafka!(logs::an_open_transaction_holds_the_watermark),
        kafka!(logs::a_compacted_topic_is_read_over_its_holes),
        kafka!(logs::partitions_added_while_it_runs_are_read_from_their_start),
        kafka!(replay::what_a_wrong_setting_spoilt_is_rebuilt),
        kafka!(corrected::a_series_is_as_if_it_had_been_read_with_the_right_settings),
        kafka!(replay::a_compacted_log_makes_no_rows_of_other_settings_unasked),
        kafka!(replay::a_stream_that_is_written_all_the_while_is_replayed_whole),
        kafka!(replay::a_replay_and_a_closer_do_not_fold_the_same_windows),
        kafka!(replay::times_that_were_ahead_make_nothing_late_when_they_are_right),
        kafka!(replay::what_cannot_be_rebuilt_whole_is_listed_and_left),
        kafka!(api::the_api_gets_the_documented_request_and_its_answer_becomes_records),
        kafka!(api::bad_answers_give_a_clear_line_and_no_record),
        case!(dashboard::pages_json_and_probes_answer),
        case!(dashboard::calls_are_spans_for_a_collector),
        case!(dashboard::every_grafana_statement_runs),
    ]
}

/// Components, registries, plugins.
fn of_the_host() -> Vec<Case> {
    vec![
        kafka!(guests::an_instance_serves_again_where_it_was_asked_for),
        kafka!(guests::traps_are_split_down_to_the_record),
        kafka!(guests::a_trap_in_a_transaction_does_not_leak_it),
        kafka!(guests::headers_are_given_unless_the_trigger_does_without),
        kafka!(guests::loops_and_floods_harm_no_other_record),
        kafka!(guests::forbidden_destinations_and_files_are_out_of_reach),
        kafka!(guests::components_of_wasi_0_2_and_the_key_value_store_are_served),
        kafka!(guests::poison_stops_the_partition_unless_told_otherwise),
        case!(foreign::an_app_sets_and_sees_nothing_of_the_hosts),
        case!(foreign::compiled_code_that_somebody_changed_is_made_anew),
        case!(foreign::code_that_takes_too_long_to_compile_costs_only_who_asked),
        case!(foreign::a_compiler_ends_with_its_host),
        case!(foreign::a_component_that_does_not_start_harms_its_own_stage),
        kafka!(limits::rows_of_nothing_take_room_all_the_same),
        kafka!(limits::a_statement_is_ended_when_its_result_is_refused),
        kafka!(limits::many_partitions_share_the_hosts_memory),
        kafka!(limits::builders_hold_no_more_than_addresses),
        kafka!(limits::a_component_has_so_many_connections_however_it_spells_them),
        kafka!(limits::all_handles_of_a_call_share_what_it_may_log),
        kafka!(limits::a_store_has_a_quota),
        kafka!(bombs::a_record_that_unpacks_to_more_than_its_limit_becomes_a_reject),
        kafka!(bombs::a_function_that_is_not_given_cut_records_has_them_as_dead_letters),
        kafka!(advertised::a_broker_that_is_not_allowed_gets_no_connection),
        kafka!(clients::idle_clients_stop_neither_the_pipeline_nor_the_probes),
        case!(clients::pages_of_other_origins_get_nothing_from_the_admin_address),
        kafka!(roles::each_stage_runs_with_its_own_role),
        kafka!(roles::each_stage_needs_only_its_acls),
        kafka!(swap::swaps_under_load_lose_and_double_nothing),
        kafka!(swap::what_cannot_run_is_refused_and_changes_nothing),
        kafka!(swap::a_version_that_fails_its_first_calls_goes_by_itself),
        kafka!(swap::swapped_back_the_version_before_runs),
        kafka!(swap::the_admin_address_changes_nothing_without_its_token),
        kafka!(swap::a_file_that_changes_is_swapped_in_where_it_is_watched),
        kafka!(swap::a_window_state_of_another_layout_is_left_alone),
        kafka!(plugin::a_three_trigger_app_runs_as_spin_starts_it),
        kafka!(plugin::both_triggers_end_with_the_terminal_and_with_their_wrapper),
        kafka!(plugin::what_a_locked_app_requires_and_is_not_there_is_one_clear_error),
        registry!(registry::what_is_pushed_is_pulled_and_each_stage_runs_alone),
        registry!(registry::a_registry_that_refuses_or_changes_content_is_an_error),
        registry!(registry::every_form_of_content_is_read_and_mounted_read_only),
        registry!(registry::files_of_a_manifest_are_mounted_and_pushed),
        registry!(registry::a_component_is_swapped_by_reference),
        case!(spinkube::manifests_have_known_fields_and_belong_together),
        case!(spinkube::a_misspelt_field_is_noticed),
        case!(spinkube::a_cluster_is_one_file_and_a_changed_setting_rolls_out),
        case!(spinkube::what_a_cluster_may_have_beside_is_of_its_operators_types),
        case!(compose::what_it_keeps_it_keeps_of_both_servers),
        kafka!(compose::down_and_up_goes_on),
        case!(spinkube::a_stage_is_reached_by_and_holds_no_more_than_it_needs),
        registry!(cluster::stages_as_processes_scale_alone_and_the_rows_are_right),
        registry!(cluster::a_first_install_in_the_worst_order_ends_well),
        registry!(cluster::an_upgrade_replaces_pod_by_pod_and_the_rows_are_right),
        registry!(cluster::pods_start_again_while_the_registry_is_away),
        Case { needs: Need::Image, ..case!(image::it_runs_as_a_user_on_a_read_only_root_and_may_listen_below_1024) },
        kafka!(newcomer::an_app_of_ones_own_fails_says_why_is_swapped_and_goes_on),
        kafka!(templates::what_spin_new_makes_builds_and_runs),
        kafka!(templates::a_function_in_python_reads_and_publishes),
    ]
}

/// What a host needs to start, what it finds beside itself, and what it says of itself.
fn of_starts_and_words() -> Vec<Case> {
    vec![
        kafka!(links::postgresql_over_tls),
        kafka!(links::kafka_over_tls_with_scram),
        case!(starts::bad_starts_are_one_clear_error),
        case!(starts::a_check_does_everything_but_run),
        kafka!(starts::a_leased_tick_runs_once),
        case!(starts::a_reference_table_is_kept),
        case!(starts::two_hosts_may_migrate_at_once),
        case!(starts::newer_definitions_are_left_alone),
        case!(starts::a_signal_during_a_migration_ends_the_host),
        case!(starts::a_connection_that_ends_during_a_migration_ends_no_host),
        case!(starts::a_migration_that_deadlocks_with_a_reader_is_tried_again),
        kafka!(neighbours::tables_of_others_are_left_alone_and_a_schema_keeps_the_pipeline_apart),
        case!(neighbours::who_may_only_read_and_write_rows_starts_on_a_migrated_database),
        kafka!(neighbours::every_release_that_is_supported_gives_the_same_rows),
        kafka!(neighbours::a_standby_that_is_promoted_goes_on_where_the_primary_was),
        case!(neighbours::a_server_that_cannot_be_used_says_why),
        kafka!(neighbours::streams_beyond_the_servers_connections_share_them),
        Case { needs: Need::Pooler, ..case!(neighbours::hosts_start_at_once_and_rows_are_right_behind_a_pooler) },
        Case {
            needs: Need::Pooler,
            ..case!(neighbours::a_pooler_with_fewer_sessions_than_wanted_is_slow_and_starves_nobody)
        },
        kafka!(starts::without_kafka_or_postgresql_it_waits_and_recovers),
        case!(truth::a_database_that_is_not_migrated_is_not_ready),
        kafka!(truth::an_api_that_fails_turns_no_request_away),
        case!(truth::clocks_that_differ_are_told),
        Case { needs: Need::Promtool, ..case!(truth::metrics_are_as_prometheus_wants_them) },
        kafka!(truth::a_log_that_lost_its_tail_and_grew_again_is_not_read_on),
        kafka!(truth::an_unclean_election_is_a_gap_under_a_reader_and_without_one),
        kafka!(truth::readiness_follows_a_database_that_is_cut_held_or_deaf),
        case!(truth::a_signal_during_the_start_ends_it),
        case!(truth::requests_are_answered_while_readiness_says_that_the_host_stops),
    ]
}

impl World {
    pub fn kafka(&self) -> &Kafka {
        self.kafka.as_ref().expect("only tests that need Kafka ask for it")
    }

    /// The app against the shared Kafka and a database, with topics and groups of its own and
    /// short time-outs.
    pub fn setup(&self, database: &Database, name: &str) -> Setup {
        let brokers = self.kafka.as_ref().map_or("127.0.0.1:1", |kafka| kafka.brokers.as_str());
        Setup::against(brokers, database, name)
    }
}

/// The reader of one stream and the closer: what most tests need.
pub const EXCHANGES: [&str; 2] = ["aggregator-exchanges", "window-closer"];

/// Waits until the stream has applied so many records, closed or not.
pub fn wait_for_records(database: &Database, stream: &str, records: i64) {
    e2e::wait_for(&format!("{records} records of {stream}"), std::time::Duration::from_secs(180), || {
        let counted = database.number(&format!(
            "SELECT coalesce(sum(records), 0)::int8 FROM public.live_aggregates WHERE stream = '{stream}'"
        ));
        assert!(counted <= records, "{counted} records were counted, {records} were sent");
        (counted == records).then_some(())
    });
}

/// Waits until nothing of the stream is pending.
pub fn wait_until_closed(database: &Database, stream: &str) {
    e2e::wait_for(&format!("the last windows of {stream}"), std::time::Duration::from_secs(90), || {
        let statement = format!("SELECT count(*) FROM public.pending_parts WHERE stream = '{stream}'");
        (database.number(&statement) == 0).then_some(())
    });
}
