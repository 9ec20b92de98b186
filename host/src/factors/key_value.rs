//! `spin:key-value` over one file in the state directory, shared by all components.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow, bail};
use redb::{Database, ReadableDatabase, TableDefinition};
use wasmtime::component::{Accessor, FutureReader, HasData, Linker, Resource, ResourceTable, StreamReader};

use super::{Configure, Factor};
use crate::app::ComponentSpec;
use crate::bindings::imports::spin::key_value::key_value as wit;
use crate::budget::Account;
use crate::instance::State;

/// Keys are the store's label and the key.
const VALUES: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("values");
/// Stores that exist without being configured, as in Spin.
const DEFAULT_STORE: &str = "default";

/// The file is made when a component first opens a store.
pub struct KeyValueFactor {
    file: Arc<File>,
    labels: BTreeSet<String>,
}

struct File {
    path: PathBuf,
    database: OnceLock<Result<Database, String>>,
}

/// The stores that a component may open.
#[derive(Clone)]
pub struct ComponentKeyValue {
    file: Arc<File>,
    labels: Arc<BTreeSet<String>>,
}

/// An open store.
#[derive(Clone)]
pub struct Store {
    file: Arc<File>,
    label: String,
}

impl KeyValueFactor {
    /// `labels` are the stores that the runtime configuration names beside `default`. One process has
    /// the file: hosts that share a state directory have a `name` each.
    pub fn new(state_dir: &Path, name: &str, labels: impl IntoIterator<Item = String>) -> Self {
        let file = Arc::new(File { path: state_dir.join(format!("{name}.redb")), database: OnceLock::new() });
        Self { file, labels: labels.into_iter().chain([DEFAULT_STORE.to_owned()]).collect() }
    }

    /// Sets keys of the default store, before anything runs.
    pub async fn set(&self, pairs: &[(String, String)]) -> Result<()> {
        for (key, value) in pairs {
            let store = Store { file: Arc::clone(&self.file), label: DEFAULT_STORE.to_owned() };
            let written = store.write(key.clone(), Some(value.clone().into_bytes())).await;
            written.map_err(|error| anyhow!("--key-value {key}: {error:?}"))?;
        }
        Ok(())
    }
}

impl Factor for KeyValueFactor {
    type Component = ComponentKeyValue;
    type Instance = ComponentKeyValue;

    fn init(linker: &mut Linker<State>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, Self>(linker, |state| View {
            table: &mut state.table,
            stores: &state.factors.key_value,
        })
    }

    fn configure(&self, spec: &ComponentSpec, _: &Configure<'_>) -> Result<ComponentKeyValue> {
        if let Some(unknown) = spec.key_value_stores.iter().find(|label| !self.labels.contains(*label)) {
            bail!(
                "key_value_stores: {unknown:?} is not configured: add [key_value_store.{unknown}] with type = \"spin\" to the runtime configuration"
            );
        }
        Ok(ComponentKeyValue {
            file: Arc::clone(&self.file),
            labels: Arc::new(spec.key_value_stores.iter().cloned().collect()),
        })
    }

    fn prepare(&self, component: &ComponentKeyValue, _: &Arc<Account>) -> ComponentKeyValue {
        component.clone()
    }
}

impl File {
    fn database(&self) -> Result<&Database, wit::Error> {
        let open = || {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
            Database::create(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))
        };
        self.database.get_or_init(open).as_ref().map_err(|error| wit::Error::Other(error.clone()))
    }
}

fn other(error: impl Into<redb::Error>) -> wit::Error {
    wit::Error::Other(error.into().to_string())
}

impl Store {
    /// Runs a piece of work on a thread that may wait for the disk.
    async fn run<R: Send + 'static>(
        self,
        work: impl FnOnce(&Database, &str) -> Result<R, wit::Error> + Send + 'static,
    ) -> Result<R, wit::Error> {
        let run = move || work(self.file.database()?, &self.label);
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
        self.run(move |database, label| {
            let write = database.begin_write().map_err(other)?;
            {
                let mut table = write.open_table(VALUES).map_err(other)?;
                match &value {
                    Some(value) => table.insert((label, key.as_str()), value.as_slice()).map_err(other)?,
                    None => table.remove((label, key.as_str())).map_err(other)?,
                };
            }
            write.commit().map_err(other)
        })
        .await
    }

    async fn keys(self) -> Result<Vec<String>, wit::Error> {
        self.run(|database, label| {
            let read = database.begin_read().map_err(other)?;
            let table = match read.open_table(VALUES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table.map_err(other)?,
            };
            let mut keys = Vec::new();
            for entry in table.range((label, "")..).map_err(other)? {
                let (key, _) = entry.map_err(other)?;
                let (entry_label, key) = key.value();
                if entry_label != label {
                    break;
                }
                keys.push(key.to_owned());
            }
            Ok(keys)
        })
        .await
    }
}

/// The table of open stores and what may be opened, borrowed from the store.
pub struct View<'a> {
    table: &'a mut ResourceTable,
    stores: &'a ComponentKeyValue,
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

impl<T: Send + 'static> wit::HostStoreWithStore<T> for KeyValueFactor {
    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Store>, wit::Error>> {
        accessor.with(|mut access| {
            let view = access.get();
            if !view.stores.labels.contains(&label) {
                return Ok(Err(wit::Error::AccessDenied));
            }
            let file = Arc::clone(&view.stores.file);
            Ok(Ok(view.table.push(Store { file, label })?))
        })
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
        let (keys, result) = match store(accessor, &this)?.keys().await {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let result = FutureReader::new(&mut access, async move { wasmtime::error::Ok(result) })?;
            Ok((keys, result))
        })
    }
}
