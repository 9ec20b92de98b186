//! The part of librdkafka that the safe binding does not have: the id of a topic.
#![allow(unsafe_code, reason = "librdkafka's C interface; each use says why it is sound")]

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::client::NativeClient;
use rdkafka_sys as sys;

use super::error::DescribeError;
use super::types::{TopicDescription, TopicId};

/// Asks the cluster for a topic. Blocks up to `timeout`.
pub fn describe_topic(
    client: &NativeClient,
    topic: &str,
    timeout: Duration,
) -> Result<TopicDescription, DescribeError> {
    let name = CString::new(topic).map_err(|_| DescribeError::BadName)?;
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every object made here is destroyed here, after its last use; the client is alive
    // (the caller holds it); the event owns what is read from it until it is destroyed.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let options =
            sys::rd_kafka_AdminOptions_new(client.ptr(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        sys::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        let queue = sys::rd_kafka_queue_new(client.ptr());
        sys::rd_kafka_DescribeTopics(client.ptr(), topics, options, queue);
        sys::rd_kafka_AdminOptions_destroy(options);
        sys::rd_kafka_TopicCollection_destroy(topics);
        let event = sys::rd_kafka_queue_poll(queue, millis);
        let description = if event.is_null() { Err(DescribeError::NoAnswer) } else { read_description(event) };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        description
    }
}

/// # Safety
/// `event` is a valid event that outlives the call.
unsafe fn read_description(event: *mut sys::rd_kafka_event_t) -> Result<TopicDescription, DescribeError> {
    let refused = |error| match error {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => DescribeError::NoSuchTopic,
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT => DescribeError::NoAnswer,
        // SAFETY: librdkafka's names of errors are static C strings.
        other => {
            DescribeError::Other(unsafe { CStr::from_ptr(sys::rd_kafka_err2str(other)) }.to_string_lossy().into_owned())
        }
    };
    let ok = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: the event is valid, and what is read from it is used before the caller destroys it.
    unsafe {
        let error = sys::rd_kafka_event_error(event);
        if error != ok {
            return Err(refused(error));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(DescribeError::Other("an answer to another question".to_owned()));
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Err(DescribeError::NoSuchTopic);
        }
        let topic = *topics;
        let error = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic));
        if error != ok {
            return Err(refused(error));
        }
        let id = CStr::from_ptr(sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic)));
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        let id = id.to_string_lossy().into_owned();
        if id.trim_end_matches('=').bytes().all(|byte| byte == b'A') {
            return Err(DescribeError::NoIds);
        }
        Ok(TopicDescription { id: TopicId(id), partitions: i32::try_from(partitions).unwrap_or(i32::MAX) })
    }
}
