//! A producer whose every connection is asked for. The safe binding makes librdkafka's configuration
//! itself and has no place for the question.
#![allow(unsafe_code, reason = "librdkafka's C interface; each use says why it is sound")]

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use exagg_clients::kafka::{ClientError, Properties, log};
use exagg_common::template::Secret;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use tokio::sync::oneshot;

use super::admission::Admission;
use crate::budget::Held;
use crate::factors::bindings::exagg::kafka::producer::{Delivery, Message};

/// How long one look for events waits; a producer that nobody holds any more ends within this time.
const POLL_MS: c_int = 100;
/// Topics that one producer sends to.
const TOPICS_MAX: usize = 256;
/// How long a producer that ends waits for the reports of what it gives up.
const END_MAX: Duration = Duration::from_secs(1);
const OK: sys::rd_kafka_resp_err_t = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

type Resolve = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const libc::addrinfo,
    *mut *mut libc::addrinfo,
    *mut c_void,
) -> c_int;

unsafe extern "C" {
    /// In `rdkafka.h` and not in the binding.
    fn rd_kafka_conf_set_resolve_cb(conf: *mut sys::rd_kafka_conf_t, resolve: Option<Resolve>);
}

/// A record that was not stored, or not for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Given up here, not refused by a broker.
    pub is_local: bool,
    pub reason: String,
}

pub type Delivered = Result<Delivery, Undelivered>;

/// Why a record is not in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotQueued {
    QueueFull,
    /// It cannot be a record.
    Bad(String),
    Failed(String),
}

/// Who waits for a record, and what is charged for it.
struct Waiting {
    done: oneshot::Sender<Delivered>,
    held: Arc<Held>,
}

/// The records under way. librdkafka is given their numbers, so that nothing has to be freed where a
/// report never comes.
#[derive(Default)]
struct Deliveries {
    last: AtomicUsize,
    waiting: Mutex<HashMap<usize, Waiting>>,
}

impl Deliveries {
    fn await_one(&self, held: Arc<Held>) -> (usize, oneshot::Receiver<Delivered>) {
        let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let (done, delivered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Waiting { done, held });
        (number, delivered)
    }

    fn take(&self, number: usize) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

/// What the callbacks see.
struct Hooks {
    who: String,
    admission: Arc<Admission>,
    deliveries: Deliveries,
    topics: Topics,
}

/// Topics that were ever sent to: librdkafka keeps what it knows of each as long as the client lives.
#[derive(Default)]
struct Topics(Mutex<HashSet<String>>);

impl Topics {
    fn admit(&self, topic: &str) -> Result<(), NotQueued> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(topic) {
            return Ok(());
        }
        if known.len() >= TOPICS_MAX {
            return Err(NotQueued::Bad(format!("a function may send to {TOPICS_MAX} topics of a cluster")));
        }
        known.insert(topic.to_owned());
        Ok(())
    }
}

/// A handle; the client ends soon after the last one is dropped, on its own thread.
#[derive(Clone)]
pub struct Producer(Arc<Native>);

struct Native {
    client: NonNull<sys::rd_kafka_t>,
    /// Lent to librdkafka until the client is destroyed.
    hooks: Arc<Hooks>,
    /// Charged for the producer, until its threads are gone.
    _held: Held,
}

// SAFETY: librdkafka's clients may be used from any thread, by its documentation; the hooks are Sync.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

/// A configuration that is destroyed unless a client takes it.
struct Conf(*mut sys::rd_kafka_conf_t);

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: it is ours as long as no client has taken it, and then this is not run.
        unsafe { sys::rd_kafka_conf_destroy(self.0) };
    }
}

impl Conf {
    fn new(properties: &Properties) -> Result<Self, ClientError> {
        // SAFETY: it takes nothing, and what it gives is ours.
        let conf = Self(unsafe { sys::rd_kafka_conf_new() });
        for (name, value) in properties {
            conf.set(name, value.expose())?;
        }
        Ok(conf)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), ClientError> {
        let nul = |_| ClientError::property(name, "it has a NUL", value);
        let (c_name, c_value) = (CString::new(name).map_err(nul)?, CString::new(value).map_err(nul)?);
        let mut error = ErrorText::new();
        // SAFETY: the configuration is ours, both texts end in a NUL, and the place for the error is
        // as long as it says.
        let set =
            unsafe { sys::rd_kafka_conf_set(self.0, c_name.as_ptr(), c_value.as_ptr(), error.place(), error.size()) };
        if set == sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
            return Ok(());
        }
        Err(ClientError::property(name, &error.text(), value))
    }
}

/// The place for an error's text.
struct ErrorText([u8; 512]);

impl ErrorText {
    fn new() -> Self {
        Self([0; 512])
    }

    fn place(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn text(&self) -> String {
        CStr::from_bytes_until_nul(&self.0).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl Producer {
    /// Makes the client and starts its thread. Nothing is connected to that `admission` does not permit.
    pub fn open(
        who: &str,
        properties: &Properties,
        admission: Arc<Admission>,
        held: Held,
    ) -> Result<Self, ClientError> {
        let conf = Conf::new(properties)?;
        let hooks = Arc::new(Hooks {
            who: who.to_owned(),
            admission,
            deliveries: Deliveries::default(),
            topics: Topics::default(),
        });
        let mut error = ErrorText::new();
        // SAFETY: the configuration is ours; the hooks stay where they are (in an Arc) until the client
        // is destroyed, or, where there is none, until this call returns.
        let client = unsafe {
            sys::rd_kafka_conf_set_opaque(conf.0, Arc::as_ptr(&hooks).cast_mut().cast());
            rd_kafka_conf_set_resolve_cb(conf.0, Some(resolve));
            sys::rd_kafka_conf_set_dr_msg_cb(conf.0, Some(delivered));
            sys::rd_kafka_conf_set_log_cb(conf.0, Some(logged));
            sys::rd_kafka_conf_set_error_cb(conf.0, Some(failed));
            sys::rd_kafka_new(sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, conf.0, error.place(), error.size())
        };
        let Some(client) = NonNull::new(client) else {
            return Err(ClientError::client(&error.text(), properties.values().map(Secret::expose)));
        };
        // The client has taken it.
        std::mem::forget(conf);
        let native = Arc::new(Native { client, hooks, _held: held });
        let served = Arc::clone(&native);
        std::thread::Builder::new()
            .name("kafka producer".to_owned())
            .spawn(move || serve(served))
            .map_err(|error| ClientError::Client(format!("cannot start a thread: {error}")))?;
        Ok(Self(native))
    }

    /// Puts a record into the queue.
    pub fn produce(&self, message: &Message, held: Arc<Held>) -> Result<oneshot::Receiver<Delivered>, NotQueued> {
        let text = |text: &str| {
            CString::new(text).map_err(|_| NotQueued::Bad("the name of a topic or header has a NUL".to_owned()))
        };
        let topic = text(&message.topic)?;
        self.0.hooks.topics.admit(&message.topic)?;
        let names = message.headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
        let deliveries = &self.0.hooks.deliveries;
        let (number, delivery) = deliveries.await_one(held);
        let mut fields = vec![
            field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC, Value { cstr: topic.as_ptr() }),
            field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS, Value { i: sys::RD_KAFKA_MSG_F_COPY }),
            field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE, Value { ptr: ptr::without_provenance_mut(number) }),
            field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY, bytes(message.key.as_deref())),
            field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, bytes(message.value.as_deref())),
        ];
        for (name, (_, value)) in names.iter().zip(&message.headers) {
            let header = sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                name: name.as_ptr(),
                val: value.as_ptr().cast(),
                size: value.len().cast_signed(),
            };
            fields.push(field(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADER, Value { header }));
        }
        // SAFETY: the client is alive, and every text and slice that the fields name lives until the
        // call returns; librdkafka copies all of them (the flag; headers always).
        let error = unsafe { sys::rd_kafka_produceva(self.0.client.as_ptr(), fields.as_ptr(), fields.len()) };
        let Some(error) = NonNull::new(error) else { return Ok(delivery) };
        deliveries.take(number);
        // SAFETY: the error is ours until it is destroyed here, after its last use; its text is a C
        // string of its own.
        unsafe {
            let code = sys::rd_kafka_error_code(error.as_ptr());
            let reason = CStr::from_ptr(sys::rd_kafka_error_string(error.as_ptr())).to_string_lossy().into_owned();
            sys::rd_kafka_error_destroy(error.as_ptr());
            Err(match code {
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => NotQueued::QueueFull,
                _ => NotQueued::Failed(reason),
            })
        }
    }

    /// The brokers that the cluster names, by any broker that is connected to. Blocks up to `timeout`.
    pub fn advertised(&self, timeout: Duration) -> Result<Vec<(String, u16)>, String> {
        let mut metadata = ptr::null();
        // SAFETY: the client is alive and the place for the answer is ours; no topic is named.
        let error = unsafe {
            sys::rd_kafka_metadata(self.0.client.as_ptr(), 0, ptr::null_mut(), &raw mut metadata, millis(timeout))
        };
        if error != OK || metadata.is_null() {
            return Err(name(error));
        }
        // SAFETY: the answer is ours until it is destroyed here, after its last use; it has as many
        // brokers as it says, and their names are C strings that live as long.
        unsafe {
            let count = usize::try_from((*metadata).broker_cnt).unwrap_or_default();
            let brokers = (0..count).filter_map(|index| {
                let broker = &*(*metadata).brokers.add(index);
                let host = CStr::from_ptr(broker.host).to_string_lossy().into_owned();
                // What has no port is not connected to either.
                Some((host, u16::try_from(broker.port).ok()?))
            });
            let brokers = brokers.collect();
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(brokers)
        }
    }

    /// Waits until each record is acknowledged or given up.
    pub fn flush(&self, timeout: Duration) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: the client is alive; the callbacks that it may run here may run on any thread.
        let error = unsafe { sys::rd_kafka_flush(self.0.client.as_ptr(), millis(timeout)) };
        if error == OK { Ok(()) } else { Err(error.into()) }
    }
}

/// Runs the callbacks until nobody else holds the client.
fn serve(mut native: Arc<Native>) {
    loop {
        // SAFETY: the client is alive: this thread holds it.
        unsafe { sys::rd_kafka_poll(native.client.as_ptr(), POLL_MS) };
        native = match Arc::try_unwrap(native) {
            Ok(last) => return drop(last),
            Err(held) => held,
        };
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let client = self.client.as_ptr();
        let end = Instant::now() + END_MAX;
        // SAFETY: nobody else has the client any more, and it is not used after it is destroyed; the
        // hooks go after it, as a field.
        unsafe {
            sys::rd_kafka_purge(client, sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT);
            while sys::rd_kafka_outq_len(client) > 0 && Instant::now() < end {
                sys::rd_kafka_poll(client, POLL_MS);
            }
            sys::rd_kafka_destroy(client);
        }
    }
}

type Value = sys::rd_kafka_vu_s__bindgen_ty_1;

fn field(vtype: sys::rd_kafka_vtype_t, u: Value) -> sys::rd_kafka_vu_t {
    sys::rd_kafka_vu_t { vtype, u }
}

/// None is null, which is not the same as empty.
fn bytes(bytes: Option<&[u8]>) -> Value {
    let (start, size) = bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    Value { mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr: start.cast_mut().cast(), size } }
}

fn millis(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

fn name(error: sys::rd_kafka_resp_err_t) -> String {
    // SAFETY: librdkafka's names of errors are static C strings.
    unsafe { CStr::from_ptr(sys::rd_kafka_err2str(error)) }.to_string_lossy().into_owned()
}

/// # Safety
/// The text is null or a C string that lives as long as the answer is used.
unsafe fn text<'a>(text: *const c_char) -> std::borrow::Cow<'a, str> {
    // SAFETY: by this function's own condition.
    if text.is_null() { "".into() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy() }
}

/// In the place of `getaddrinfo`: each connection of librdkafka's goes to an address that came from here.
unsafe extern "C" fn resolve(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    found: *mut *mut libc::addrinfo,
    hooks: *mut c_void,
) -> c_int {
    if node.is_null() {
        // SAFETY: by librdkafka's contract this gives back what a call below has found.
        unsafe { libc::freeaddrinfo(*found) };
        return 0;
    }
    // SAFETY: the hooks live as long as the client, and both texts are C strings or null.
    let permitted = unsafe { (*hooks.cast::<Hooks>()).admission.permits(&text(node), &text(service)) };
    if !permitted {
        return libc::EAI_FAIL;
    }
    // SAFETY: the arguments are those of librdkafka's own call.
    unsafe { libc::getaddrinfo(node, service, hints, found) }
}

unsafe extern "C" fn delivered(_: *mut sys::rd_kafka_t, message: *const sys::rd_kafka_message_t, hooks: *mut c_void) {
    // SAFETY: the message is valid during the call, and the hooks live as long as the client.
    let (message, hooks) = unsafe { (&*message, &*hooks.cast::<Hooks>()) };
    let Some(waiting) = hooks.deliveries.take(message._private.addr()) else { return };
    let delivered = if message.err == OK {
        Ok(Delivery { partition: message.partition, offset: message.offset })
    } else {
        // Below -1 are librdkafka's own; -1 is a broker's "unknown".
        Err(Undelivered { is_local: (message.err as i32) < -1, reason: name(message.err) })
    };
    // First, so that nothing is charged any more when the answer is seen.
    drop(waiting.held);
    // The call may have been cut off.
    let _ = waiting.done.send(delivered);
}

unsafe extern "C" fn logged(
    client: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    let level = match level {
        ..=3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        _ => RDKafkaLogLevel::Debug,
    };
    // SAFETY: the client is valid during the call, its opaque pointer is the hooks, which live as long
    // (or null), and the texts are C strings.
    unsafe {
        let hooks = sys::rd_kafka_opaque(client).cast::<Hooks>();
        let who = hooks.as_ref().map_or("producer", |hooks| &hooks.who);
        log(who, level, &text(facility), &text(line));
    }
}

unsafe extern "C" fn failed(_: *mut sys::rd_kafka_t, code: c_int, reason: *const c_char, hooks: *mut c_void) {
    // SAFETY: the hooks live as long as the client, and the reason is a C string.
    unsafe { tracing::warn!(client = %(*hooks.cast::<Hooks>()).who, "kafka: error {code}: {}", text(reason)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_cannot_name_topics_without_end() {
        let topics = Topics::default();
        for number in 0..TOPICS_MAX {
            topics.admit(&format!("t{number}")).unwrap_or_else(|_| panic!("{number}"));
        }
        assert!(topics.admit("one more").is_err() && topics.admit("t0").is_ok());
    }
}
