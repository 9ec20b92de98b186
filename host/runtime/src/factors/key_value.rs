//! `spin:key-value` over one file in the state directory, shared by all components.
//!
//! # Layout
//! - [`file`]: the file of all stores.
//! - [`quota`]: what a store may hold.

mod file;
mod quota;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow, bail, ensure};
use exagg_app::ComponentSpec;
use redb::{Database, ReadableDatabase, TableDefinition};
use tokio::sync::Semaphore;
use wasmtime::component::{Accessor, FutureReader, HasData, Linker, Resource, ResourceTable, StreamReader};

use self::file::StoreFile;
use super::handed::Handed;
use super::{Call, Configure, Factor, Holds, Link};
use crate::budget::{self, Account, Exceeded, Held};
use crate::factors::bindings::spin::key_value::key_value as wit;

/// Keys are the store's label and the key.
const VALUES: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("values");
/// The store that exists without being configured, as in Spin.
pub const DEFAULT_STORE: &str = "default";

/// What a key in a list takes beside its own bytes, about.
const LISTED_KEY_BYTES: usize = 64;

/// The file is made when a component first opens a store.
pub struct KeyValueFactor {
    file: Arc<StoreFile>,
    labels: BTreeSet<String>,
}

/// The stores that a component may open.
#[derive(Clone)]
pub struct ComponentKeyValue {
    file: Arc<StoreFile>,
    labels: Arc<BTreeSet<String>>,
    stored: Arc<Stored>,
}

/// The same, and the account of the call.
pub struct InstanceKeyValue {
    component: ComponentKeyValue,
    call: Arc<Account>,
}

/// What the component's account shows of the stores that it uses: the totals that it saw last, for others may write
/// to them too.
struct Stored {
    account: Arc<Account>,
    bytes_of_labels: Mutex<BTreeMap<String, u64>>,
    /// Pieces of work of one component that are under way.
    places: Arc<Semaphore>,
}

/// An open store.
#[derive(Clone)]
pub struct Store {
    file: Arc<StoreFile>,
    label: String,
    /// None where the host itself writes.
    stored: Option<Arc<Stored>>,
}

/// Pieces of work of one component that wait for the disk at a time.
const PLACES: usize = 8;

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(PLACES))
}

impl Stored {
    fn set(&self, label: &str, bytes: u64) -> Result<(), Exceeded> {
        let mut labels = self.bytes_of_labels.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = labels.entry(label.to_owned()).or_default();
        if bytes > *shown {
            self.account.charge(budget::Resource::StoredBytes, bytes - *shown)?;
        } else {
            self.account.release(budget::Resource::StoredBytes, *shown - bytes);
        }
        *shown = bytes;
        Ok(())
    }
}

impl KeyValueFactor {
    /// `labels` are the stores that components may open. One process has
    /// the file: hosts that share a state directory have a `name` each.
    pub fn new(state_dir: &Path, name: &str, labels: impl IntoIterator<Item = String>) -> Self {
        let file = Arc::new(StoreFile::new(state_dir.join(format!("{name}.redb"))));
        Self { file, labels: labels.into_iter().collect() }
    }

    /// Sets keys of the default store, before anything runs.
    pub async fn set(&self, pairs: &[(String, String)]) -> Result<()> {
        let is_default = pairs.is_empty() || self.labels.contains(DEFAULT_STORE);
        ensure!(is_default, "--key-value: the runtime configuration puts the store {DEFAULT_STORE:?} elsewhere");
        for (key, value) in pairs {
            let store = Store { file: Arc::clone(&self.file), label: DEFAULT_STORE.to_owned(), stored: None };
            let written = store.write(key.clone(), Some(value.clone().into_bytes())).await;
            written.map_err(|error| anyhow!("--key-value {key}: {error:?}"))?;
        }
        Ok(())
    }
}

impl Factor for KeyValueFactor {
    type Component = ComponentKeyValue;
    type Instance = InstanceKeyValue;

    fn configure(&self, spec: &ComponentSpec, context: &Configure<'_>) -> Result<ComponentKeyValue> {
        if let Some(unknown) = spec.key_value_stores.iter().find(|label| !self.labels.contains(*label)) {
            bail!(
                "key_value_stores: {unknown:?} is not configured: add [key_value_store.{unknown}] with type = \"spin\" to the runtime configuration"
            );
        }
        Ok(ComponentKeyValue {
            file: Arc::clone(&self.file),
            labels: Arc::new(spec.key_value_stores.iter().cloned().collect()),
            stored: Arc::new(Stored {
                account: Arc::clone(&context.account),
                bytes_of_labels: Mutex::default(),
                places: places(),
            }),
        })
    }

    fn prepare(&self, component: &ComponentKeyValue, call: &Call) -> InstanceKeyValue {
        InstanceKeyValue { component: component.clone(), call: Arc::clone(&call.account) }
    }
}

impl<S: Holds<InstanceKeyValue>> Link<S> for KeyValueFactor {
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, Self>(linker, |store| {
            let (stores, table) = store.part();
            View { table, stores }
        })
    }
}

fn other(error: impl Into<redb::Error>) -> wit::Error {
    wit::Error::Other(error.into().to_string())
}

fn exceeded(exceeded: Exceeded) -> wit::Error {
    wit::Error::Other(exceeded.to_string())
}

/// Bytes of the host's that a call wants for a piece of work.
fn hold(call: &Arc<Account>, bytes: usize) -> Result<Held, wit::Error> {
    call.hold(budget::Resource::HostBytes, bytes as u64).map_err(exceeded)
}

impl Store {
    /// Runs a piece of work on a thread that may wait for the disk.
    async fn run<R: Send + 'static>(
        self,
        work: impl FnOnce(&Database, &str) -> Result<R, wit::Error> + Send + 'static,
    ) -> Result<R, wit::Error> {
        // Few threads at a time wait for the disk, and what waits for one of them ends with its call.
        let place = match &self.stored {
            Some(stored) => Arc::clone(&stored.places).acquire_owned().await.ok(),
            None => None,
        };
        let run = move || {
            let _place = place;
            work(self.file.database()?, &self.label)
        };
        tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(wit::Error::Other(error.to_string())))
    }

    async fn get(self, key: String) -> Result<Option<Vec<u8>>, wit::Error> {
        self.run(move |database, label| {
            let read = database.begin_read().map_err(other)?;
            let table = match read.open_table(VALUES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table.map_err(other)?,
            };
            let value = table.get((label, key.as_str())).map_err(other)?;
            Ok(value.map(|value| value.value().to_vec()))
        })
        .await
    }

    async fn write(self, key: String, value: Option<Vec<u8>>) -> Result<(), wit::Error> {
        quota::check_pair(&key, value.as_deref().unwrap_or_default())?;
        let stored = self.stored.clone();
        self.run(move |database, label| {
            let write = database.begin_write().map_err(other)?;
            let totals = quota::change(&write, label, &key, value.as_deref())?;
            // Before the commit: what is refused is not written. There is one writer at a time.
            let shown = stored.map_or(Ok(()), |stored| stored.set(label, totals.bytes));
            // What is removed is removed, also from a store that is larger than it may be.
            shown.or_else(|refused| if value.is_none() { Ok(()) } else { Err(refused) }).map_err(exceeded)?;
            write.commit().map_err(other)
        })
        .await
    }

    /// Shows in the component's account what the store holds.
    async fn show(self) -> Result<(), wit::Error> {
        let stored = self.stored.clone();
        self.run(move |database, label| {
            let read = database.begin_read().map_err(other)?;
            let totals = quota::read(&read.open_table(quota::TOTALS).map_err(other)?, label)?;
            // A limit that is passed already refuses what is written, and nothing that is read.
            let _ = stored.map(|stored| stored.set(label, totals.bytes));
            Ok(())
        })
        .await
    }

    /// All keys, charged to the call as long as the guard lives.
    async fn keys(self, call: Arc<Account>) -> Result<(Vec<String>, Held), wit::Error> {
        self.run(move |database, label| {
            let mut held = hold(&call, 0)?;
            let mut keys = Vec::new();
            let read = database.begin_read().map_err(other)?;
            let table = match read.open_table(VALUES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok((keys, held)),
                table => table.map_err(other)?,
            };
            for entry in table.range((label, "")..).map_err(other)? {
                let (key, _) = entry.map_err(other)?;
                let (entry_label, key) = key.value();
                if entry_label != label {
                    break;
                }
                held.grow((key.len() + LISTED_KEY_BYTES) as u64).map_err(exceeded)?;
                keys.push(key.to_owned());
            }
            Ok((keys, held))
        })
        .await
    }
}

/// The table of open stores and what may be opened, borrowed from the store.
pub struct View<'a> {
    table: &'a mut ResourceTable,
    stores: &'a InstanceKeyValue,
}

impl HasData for KeyValueFactor {
    type Data<'a> = View<'a>;
}

impl wit::Host for View<'_> {}

impl wit::HostStore for View<'_> {
    async fn drop(&mut self, store: Resource<Store>) -> wasmtime::Result<()> {
        self.table.delete(store)?;
        Ok(())
    }
}

fn store<T: Send>(accessor: &Accessor<T, KeyValueFactor>, store: &Resource<Store>) -> wasmtime::Result<Store> {
    accessor.with(|mut access| Ok(access.get().table.get(store)?.clone()))
}

fn call<T: Send>(accessor: &Accessor<T, KeyValueFactor>) -> Arc<Account> {
    accessor.with(|mut access| Arc::clone(&access.get().stores.call))
}

impl<T: Send + 'static> wit::HostStoreWithStore<T> for KeyValueFactor {
    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Store>, wit::Error>> {
        let opened = accessor.with(|mut access| {
            let stores = &access.get().stores.component;
            stores.labels.contains(&label).then(|| Store {
                file: Arc::clone(&stores.file),
                label,
                stored: Some(Arc::clone(&stores.stored)),
            })
        });
        let Some(store) = opened else { return Ok(Err(wit::Error::AccessDenied)) };
        if let Err(error) = store.clone().show().await {
            return Ok(Err(error));
        }
        Ok(Ok(accessor.with(|mut access| access.get().table.push(store))?))
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        this: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::Error>> {
        Ok(store(accessor, &this)?.get(key).await)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        this: Resource<Store>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), wit::Error>> {
        let _held = match hold(&call(accessor), key.len() + value.len()) {
            Ok(held) => held,
            Err(error) => return Ok(Err(error)),
        };
        Ok(store(accessor, &this)?.write(key, Some(value)).await)
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        this: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<(), wit::Error>> {
        Ok(store(accessor, &this)?.write(key, None).await)
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        this: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<bool, wit::Error>> {
        Ok(store(accessor, &this)?.get(key).await.map(|value| value.is_some()))
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        this: Resource<Store>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), wit::Error>>)> {
        let (keys, held, result) = match store(accessor, &this)?.keys(call(accessor)).await {
            Ok((keys, held)) => (keys, Some(held), Ok(())),
            Err(error) => (Vec::new(), None, Err(error)),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, Handed::new(keys, held))?;
            let result = FutureReader::new(&mut access, async move { wasmtime::error::Ok(result) })?;
            Ok((keys, result))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;

    fn open(folder: &Path, component: &Arc<Account>, label: &str) -> Store {
        let stored = Stored { account: Arc::clone(component), bytes_of_labels: Mutex::default(), places: places() };
        let file = Arc::new(StoreFile::new(folder.join("a.redb")));
        Store { file, label: label.to_owned(), stored: Some(Arc::new(stored)) }
    }

    /// Take out: `check` in `quota::change`, or the difference in `Stored::set`.
    #[tokio::test]
    async fn a_store_is_full_at_its_quota_and_its_account_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        let component = Account::root("component a", Limits::NONE);
        let used = || component.used(budget::Resource::StoredBytes);
        let store = open(folder.path(), &component, "default");
        let set = async |key: &str, bytes: usize| store.clone().write(key.to_owned(), Some(vec![0; bytes])).await;
        for number in 0..63 {
            set(&format!("{number:03}"), 1 << 20).await.unwrap();
        }
        set("first", 1000).await.unwrap();
        assert_eq!(used(), 63 * ((1 << 20) + 3) + 1005);
        match set("last", 1 << 20).await {
            Err(wit::Error::Other(text)) => assert!(text.contains("full"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.clone().get("last".to_owned()).await.unwrap(), None, "it was not written");
        store.clone().write("000".to_owned(), None).await.unwrap();
        set("last", 1 << 20).await.unwrap();
        assert!(set(&"k".repeat(256), 0).await.is_err());
        assert!(set("long", (1 << 20) + 1).await.is_err());
        let before = used();
        drop(store);
        // Another host of the same folder sees what is there, before it writes.
        let component = Account::root("component a", Limits::NONE);
        let other = open(folder.path(), &component, "default");
        other.clone().show().await.unwrap();
        assert_eq!(component.used(budget::Resource::StoredBytes), before);
        let empty = open(&folder.path().join("b"), &component, "other");
        empty.clone().show().await.unwrap();
        assert!(empty.keys(Arc::clone(&component)).await.unwrap().0.is_empty());
    }

    /// Take out: the guard in `keys`.
    #[tokio::test]
    async fn a_list_of_keys_is_charged_to_the_call() {
        let folder = tempfile::tempdir().unwrap();
        let component = Account::root("component a", Limits::NONE);
        let store = open(folder.path(), &component, "default");
        for key in ["one", "two", "three"] {
            store.clone().write(key.to_owned(), Some(Vec::new())).await.unwrap();
        }
        let call = component.below("the call", Limits::NONE.with(budget::Resource::HostBytes, 250));
        let (keys, held) = store.clone().keys(Arc::clone(&call)).await.unwrap();
        assert_eq!(keys, ["one", "three", "two"]);
        assert_eq!(held.amount(), 11 + 3 * LISTED_KEY_BYTES as u64);
        assert!(store.clone().keys(Arc::clone(&call)).await.is_err(), "the budget of the call is used up");
        drop(held);
        assert_eq!(call.used(budget::Resource::HostBytes), 0);
    }
}
