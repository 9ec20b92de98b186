//! The part of librdkafka that the safe binding does not have: a queue a partition, read many
//! records at a time.
#![allow(unsafe_code, reason = "librdkafka's C interface; each use says why it is sound")]

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use exagg_clients::kafka::{Offset, TopicPartition};
use rdkafka::client::NativeClient;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka_sys as sys;
use tokio::sync::Notify;

use crate::batch::{BatchBuilder, RecordRef};
use crate::log::{FetchError, Fetched, Queue, ReadTo};

/// A partition's own queue of fetched records. It must not outlive the client that it was split
/// from: whoever holds one holds the consumer as well.
pub struct PartitionQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    ready: Arc<Notify>,
    /// The reference that librdkafka holds for its callback, once armed.
    lent: Option<*const Notify>,
}

// SAFETY: librdkafka's queues may be used from any thread, by its documentation; the pointer to
// the Notify is only turned back into an Arc on drop.
unsafe impl Send for PartitionQueue {}
// SAFETY: as above.
unsafe impl Sync for PartitionQueue {}

unsafe extern "C" fn wake(_: *mut sys::rd_kafka_t, notify: *mut c_void) {
    // SAFETY: the pointer is the one that `arm` lent, and `drop` takes the callback back before
    // it releases it.
    unsafe { &*notify.cast::<Notify>() }.notify_one();
}

impl PartitionQueue {
    /// Splits the partition's queue off the consumer's. Must be called before the partition is
    /// assigned: the split then holds for the assignment.
    pub fn split(client: &NativeClient, partition: &TopicPartition) -> Option<Self> {
        let topic = CString::new(partition.topic.as_str()).ok()?;
        // SAFETY: the client is alive (the caller is in one of its callbacks) and the name ends
        // in a NUL; the queue that comes back is a reference of our own.
        let queue = unsafe { sys::rd_kafka_queue_get_partition(client.ptr(), topic.as_ptr(), partition.partition.0) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue is valid; a null destination means "read by the application alone".
        unsafe { sys::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut()) };
        Some(Self { queue, ready: Arc::new(Notify::new()), lent: None })
    }

    fn notify_from_now_on(&mut self) {
        let lent = *self.lent.get_or_insert_with(|| Arc::into_raw(Arc::clone(&self.ready)));
        // SAFETY: the queue is valid; the callback's argument stays valid until `drop` takes the
        // callback back.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), Some(wake), lent.cast_mut().cast()) };
        // Of what came before nobody was notified.
        self.ready.notify_one();
    }

    /// Shows what is there now, without waiting, until `each` says that it has enough.
    ///
    /// Not by `rd_kafka_consume_batch_queue`: that one counts the end of a partition as a record,
    /// so that after a rebalance librdkafka (2.12) went on one offset too far.
    fn visit<'a>(&'a self, mut each: impl FnMut(Message<'_>) -> Taken + 'a) {
        let mut visitor: Visitor<'_> = &mut each;
        let opaque = (&raw mut visitor).cast::<c_void>();
        // SAFETY: the queue is valid, and the visitor lives until the call returns; librdkafka
        // calls back on this thread, within the call.
        unsafe { sys::rd_kafka_consume_callback_queue(self.queue.as_ptr(), 0, Some(show), opaque) };
    }
}

impl Queue for PartitionQueue {
    fn arm(&mut self) {
        self.notify_from_now_on();
    }

    fn ready(&self) -> &Notify {
        &self.ready
    }

    fn fetch(&self, batch: &mut BatchBuilder) -> Fetched {
        let mut fetched = Fetched::default();
        self.visit(|mut message| match message.error() {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                let next_offset = Offset(message.offset()).next();
                let record = RecordRef {
                    offset: Offset(message.offset()),
                    timestamp: message.timestamp(),
                    key: message.key(),
                    value: message.value(),
                };
                if batch.push(&record) {
                    message.headers(|name, value| batch.push_header(name, value));
                }
                let read_to = |leader_epoch| ReadTo { next_offset, leader_epoch };
                fetched.read_to = message.leader_epoch().map(read_to);
                if batch.is_full() { Taken::Enough } else { Taken::More }
            }
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                batch.end_at(Offset(message.offset()));
                Taken::More
            }
            code => {
                let text = message.value().map(String::from_utf8_lossy).unwrap_or_default();
                fetched.error = Some(fetch_error(code, &text));
                Taken::Enough
            }
        });
        fetched
    }
}

/// librdkafka's code says only that there is no offset to go on at (`auto.offset.reset` is `error`): that the log lost
/// its tail, and where an epoch ended, stands in its text.
fn fetch_error(code: sys::rd_kafka_resp_err_t, text: &str) -> FetchError {
    if !["Partition log truncation detected", "No epoch found less or equal to"].iter().any(|by| text.starts_with(by)) {
        return FetchError::Other(format!("{code:?}: {text}"));
    }
    let end = text.split_once("broker end offset is ").and_then(|(_, end)| end.split(' ').next()?.parse().ok());
    FetchError::Truncated { end: end.filter(|end| *end >= 0).map(Offset) }
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    More,
    Enough,
}

type Visitor<'a> = &'a mut dyn FnMut(Message<'_>) -> Taken;

unsafe extern "C" fn show(message: *mut sys::rd_kafka_message_t, visitor: *mut c_void) {
    let Some(message) = NonNull::new(message) else { return };
    // SAFETY: it is the visitor that `visit` lends for the time of the call.
    let visitor = unsafe { &mut *visitor.cast::<Visitor<'_>>() };
    if visitor(Message(message, PhantomData)) == Taken::Enough {
        // SAFETY: it marks this thread only, and does not look at the client.
        unsafe { sys::rd_kafka_yield(ptr::null_mut()) };
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the callback is taken back first, under the queue's lock, so that nobody uses
        // the lent reference when it is released; the queue is ours and not used again.
        unsafe {
            if let Some(lent) = self.lent.take() {
                sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
                drop(Arc::from_raw(lent));
            }
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// A record, the end of the partition, or an error; valid while it is shown.
struct Message<'a>(NonNull<sys::rd_kafka_message_t>, PhantomData<&'a ()>);

fn bytes<'a>(start: *mut c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: librdkafka gives either a null pointer or one to `length` bytes that live as long
    // as their message; the callers bind the lifetime to the message's.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

impl Message<'_> {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the pointer is valid while the message is shown.
        unsafe { self.0.as_ref() }
    }

    fn error(&self) -> sys::rd_kafka_resp_err_t {
        self.raw().err
    }

    /// The record's offset; of the end of the partition, the position there.
    fn offset(&self) -> i64 {
        self.raw().offset
    }

    fn key(&self) -> Option<&[u8]> {
        bytes(self.raw().key, self.raw().key_len)
    }

    /// The value; of an error, its text.
    fn value(&self) -> Option<&[u8]> {
        bytes(self.raw().payload, self.raw().len)
    }

    /// Unix milliseconds, or -1.
    fn timestamp(&self) -> i64 {
        // SAFETY: the message is valid; a null pointer means that the kind is not wanted.
        unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), ptr::null_mut()) }
    }

    /// The epoch of the leader that wrote the record; none where the broker does not say it.
    fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message is valid, and what is asked is copied.
        let epoch = unsafe { sys::rd_kafka_message_leader_epoch(self.0.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    /// Calls `each` with every header's name and value.
    fn headers(&mut self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid and the place for the answer is ours; the headers stay
        // the message's.
        let found = unsafe { sys::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers are valid as long as the message; past the last one the call
            // says so and writes nothing.
            let found =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            // SAFETY: a header's name is a C string that lives as long as the message.
            let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
            each(&name, bytes(value.cast_mut(), size));
        }
    }
}

/// The entry of a partition in a list.
fn find(list: &TopicPartitionList, partition: &TopicPartition) -> Option<NonNull<sys::rd_kafka_topic_partition_t>> {
    let topic = CString::new(partition.topic.as_str()).ok()?;
    // SAFETY: the list and the name are valid for the call; the entry lives as long as the list.
    NonNull::new(unsafe { sys::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition.partition.0) })
}

/// Sets the leader epoch beside the offset of a partition in the list, where it is in it.
pub fn set_leader_epoch(list: &mut TopicPartitionList, partition: &TopicPartition, leader_epoch: i32) {
    if let Some(entry) = find(list, partition) {
        // SAFETY: the entry is the list's, which nobody else holds.
        unsafe { sys::rd_kafka_topic_partition_set_leader_epoch(entry.as_ptr(), leader_epoch) };
    }
}

/// The leader epoch beside the offset of a partition in the list; none where there is none.
pub fn leader_epoch(list: &TopicPartitionList, partition: &TopicPartition) -> Option<i32> {
    let entry = find(list, partition)?;
    // SAFETY: the entry is valid as long as the list, which the caller holds.
    let epoch = unsafe { sys::rd_kafka_topic_partition_get_leader_epoch(entry.as_ptr()) };
    (epoch >= 0).then_some(epoch)
}

/// Where the answers to commits come. It must not outlive the client that it was made for.
///
/// The binding's own commits either tell nobody how they ended, or wait without end. While the group rebalances that
/// is minutes: a broker answers no more on a connection until it has answered the request to join.
pub struct CommitQueue(NonNull<sys::rd_kafka_queue_t>);

impl CommitQueue {
    /// None when librdkafka has no memory.
    pub fn new(client: &NativeClient) -> Option<Self> {
        // SAFETY: the client is alive (the caller holds it); the queue that comes back is ours.
        NonNull::new(unsafe { sys::rd_kafka_queue_new(client.ptr()) }).map(Self)
    }

    /// Sends a commit; its answer comes into the queue.
    pub fn send(&self, client: &NativeClient, list: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: the client is alive, the queue is ours, and the list is valid for the call, which copies it.
        let error =
            unsafe { sys::rd_kafka_commit_queue(client.ptr(), list.ptr(), self.0.as_ptr(), None, ptr::null_mut()) };
        committed(error)
    }

    /// The next answer; none where it does not come in so long a time.
    pub fn answer(&self, time_max: Duration) -> Option<KafkaResult<()>> {
        let time_max = i32::try_from(time_max.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue and the event are ours; the list belongs to the event, and its elements are as many as it
        // says.
        unsafe {
            let event = NonNull::new(sys::rd_kafka_queue_poll(self.0.as_ptr(), time_max))?;
            let mut result = committed(sys::rd_kafka_event_error(event.as_ptr()));
            let list = sys::rd_kafka_event_topic_partition_list(event.as_ptr());
            if let Some(list) = list.as_ref() {
                let elements = (0..usize::try_from(list.cnt).unwrap_or_default()).map(|index| &*list.elems.add(index));
                result = elements.fold(result, |result, element| result.and(committed(element.err)));
            }
            sys::rd_kafka_event_destroy(event.as_ptr());
            Some(result)
        }
    }
}

impl Drop for CommitQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and not used again; librdkafka drops an answer that comes later.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

fn committed(error: sys::rd_kafka_resp_err_t) -> KafkaResult<()> {
    match RDKafkaErrorCode::from(error) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(KafkaError::ConsumerCommit(code)),
    }
}

/// The generation of the group that the member is in; none without one.
pub fn generation(client: &NativeClient) -> Option<i32> {
    // SAFETY: the client is alive (the caller holds it); what comes back is ours, read once and destroyed.
    unsafe {
        let metadata = NonNull::new(sys::rd_kafka_consumer_group_metadata(client.ptr()))?;
        let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata.as_ptr());
        sys::rd_kafka_consumer_group_metadata_destroy(metadata.as_ptr());
        (generation >= 0).then_some(generation)
    }
}

/// The end of the partition as the last fetch saw it, without asking the broker.
pub fn known_end(client: &NativeClient, partition: &TopicPartition) -> Option<Offset> {
    let topic = CString::new(partition.topic.as_str()).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client is alive (the caller holds it) and the places for the answers are ours.
    let error = unsafe {
        sys::rd_kafka_get_watermark_offsets(
            client.ptr(),
            topic.as_ptr(),
            partition.partition.0,
            &raw mut low,
            &raw mut high,
        )
    };
    (error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text is librdkafka's own, of its version 2.12; an update that words it otherwise is noticed by
    /// `e2e/truth::a_log_that_lost_its_tail…`.
    #[test]
    fn a_truncation_says_where_the_log_ended() {
        let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET;
        let text = "Partition log truncation detected at offset 188 (leader epoch 3): broker end offset is 50 (offset \
                    leader epoch 3). Reset to INVALID.: Local: Log truncation detected (broker 1)";
        assert_eq!(fetch_error(code, text), FetchError::Truncated { end: Some(Offset(50)) });
        let unknown = "No epoch found less or equal to offset 9 (leader epoch 3): broker end offset is -1 (offset leader \
                       epoch -1). Reset using configured policy.";
        assert_eq!(fetch_error(code, unknown), FetchError::Truncated { end: None });
        assert!(matches!(fetch_error(code, "Offset out of range"), FetchError::Other(_)));
    }
}
