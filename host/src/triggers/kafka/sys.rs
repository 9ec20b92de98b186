//! The part of librdkafka that the safe binding does not have: a queue a partition, read many
//! records at a time, and the id of a topic.
#![allow(unsafe_code, reason = "librdkafka's C interface; each use says why it is sound")]

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::NativeClient;
use rdkafka_sys as sys;
use tokio::sync::Notify;

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
    pub fn split(client: &NativeClient, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client is alive (the caller is in one of its callbacks) and the name ends
        // in a NUL; the queue that comes back is a reference of our own.
        let queue = unsafe { sys::rd_kafka_queue_get_partition(client.ptr(), topic.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue is valid; a null destination means "read by the application alone".
        unsafe { sys::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut()) };
        Some(Self { queue, ready: Arc::new(Notify::new()), lent: None })
    }

    /// Has [`PartitionQueue::ready`] told from now on. A partition has one such place: an earlier
    /// holder of its queue must be gone.
    pub fn arm(&mut self) {
        let lent = *self.lent.get_or_insert_with(|| Arc::into_raw(Arc::clone(&self.ready)));
        // SAFETY: the queue is valid; the callback's argument stays valid until `drop` takes the
        // callback back.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), Some(wake), lent.cast_mut().cast()) };
        // What came before is not told.
        self.ready.notify_one();
    }

    /// Tells when the queue has become non-empty.
    pub fn ready(&self) -> &Notify {
        &self.ready
    }

    /// Shows what is there now, without waiting, until `each` says that it has enough.
    ///
    /// Not by `rd_kafka_consume_batch_queue`: that one counts the end of a partition as a record,
    /// so that after a rebalance librdkafka (2.12) went on one offset too far.
    pub fn visit<'a>(&'a self, mut each: impl FnMut(Message<'_>) -> Taken + 'a) {
        let mut visitor: Visitor<'_> = &mut each;
        let opaque = (&raw mut visitor).cast::<c_void>();
        // SAFETY: the queue is valid, and the visitor lives until the call returns; librdkafka
        // calls back on this thread, within the call.
        unsafe { sys::rd_kafka_consume_callback_queue(self.queue.as_ptr(), 0, Some(show), opaque) };
    }
}

/// Whether there is room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
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
pub struct Message<'a>(NonNull<sys::rd_kafka_message_t>, PhantomData<&'a ()>);

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

    pub fn error(&self) -> sys::rd_kafka_resp_err_t {
        self.raw().err
    }

    /// The record's offset; of the end of the partition, the position there.
    pub fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub fn key(&self) -> Option<&[u8]> {
        bytes(self.raw().key, self.raw().key_len)
    }

    /// The value; of an error, its text.
    pub fn value(&self) -> Option<&[u8]> {
        bytes(self.raw().payload, self.raw().len)
    }

    /// Unix milliseconds, or -1.
    pub fn timestamp(&self) -> i64 {
        // SAFETY: the message is valid; a null pointer means that the kind is not wanted.
        unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), ptr::null_mut()) }
    }

    /// Calls `each` with every header's name and value.
    pub fn headers(&mut self, mut each: impl FnMut(&str, Option<&[u8]>)) {
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

/// The end of the partition as the last fetch saw it, without asking the broker.
pub fn cached_end(client: &NativeClient, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client is alive (the caller holds it) and the places for the answers are ours.
    let error = unsafe {
        sys::rd_kafka_get_watermark_offsets(client.ptr(), topic.as_ptr(), partition, &raw mut low, &raw mut high)
    };
    (error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}

/// Kafka's own id of a topic (base 64) and its number of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub id: String,
    pub partitions: i32,
}

/// Asks the cluster for a topic. Blocks up to `timeout`.
pub fn describe_topic(client: &NativeClient, topic: &str, timeout: Duration) -> Result<TopicDescription, String> {
    let name = CString::new(topic).map_err(|_| "the topic's name has a NUL".to_owned())?;
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
        let description = if event.is_null() { Err("no answer in time".to_owned()) } else { read_description(event) };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_queue_destroy(queue);
        description
    }
}

/// # Safety
/// `event` is a valid event that outlives the call.
unsafe fn read_description(event: *mut sys::rd_kafka_event_t) -> Result<TopicDescription, String> {
    let text = |error| {
        // SAFETY: librdkafka's names of errors are static C strings.
        unsafe { CStr::from_ptr(sys::rd_kafka_err2str(error)) }.to_string_lossy().into_owned()
    };
    let ok = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: the event is valid, and what is read from it is used before the caller destroys it.
    unsafe {
        let error = sys::rd_kafka_event_error(event);
        if error != ok {
            return Err(text(error));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("an answer to another question".to_owned());
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Err("no such topic".to_owned());
        }
        let topic = *topics;
        let error = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic));
        if error != ok {
            return Err(text(error));
        }
        let id = CStr::from_ptr(sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic)));
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        let id = id.to_string_lossy().into_owned();
        if id.trim_end_matches('=').bytes().all(|byte| byte == b'A') {
            return Err("the cluster gives its topics no ids (Kafka 2.8 and newer does)".to_owned());
        }
        Ok(TopicDescription { id, partitions: i32::try_from(partitions).unwrap_or(i32::MAX) })
    }
}
