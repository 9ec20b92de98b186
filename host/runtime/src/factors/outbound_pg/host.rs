//! The interfaces: 4.2, and 3.0 as the part of it that it is.

use exagg_clients::postgres::Authorities;
use wasmtime::component::{Accessor, FutureReader, Resource, StreamReader};

use super::failure::Failure;
use super::query::{self, execute, query};
use super::{Connection, ConnectionBuilder, OutboundPgFactor, View};
use crate::factors::bindings::spin::postgres3_0_0::postgres as v3;
use crate::factors::bindings::spin::postgres4_2_0::postgres as v4;
use crate::factors::handed::Handed;

type ResultSet<T, E> = wasmtime::Result<Result<T, E>>;

impl From<Failure> for v4::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connection(text) => Self::ConnectionFailed(text),
            Failure::BadParameter(error) => Self::BadParameter(error.to_string()),
            Failure::Query(error) => Self::QueryFailed(*error),
            Failure::Conversion(text) => Self::ValueConversionFailed(text),
            Failure::Other(text) => Self::Other(text),
        }
    }
}

impl From<Failure> for v3::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connection(text) => Self::ConnectionFailed(text),
            Failure::BadParameter(error) => Self::BadParameter(error.to_string()),
            Failure::Query(error) => Self::QueryFailed(match *error {
                v4::QueryError::Text(text) => text,
                v4::QueryError::DbError(error) => error.as_text,
            }),
            Failure::Conversion(text) => Self::ValueConversionFailed(text),
            Failure::Other(text) => Self::Other(text),
        }
    }
}

impl View<'_> {
    fn connection(&self, connection: &Resource<Connection>) -> wasmtime::Result<Connection> {
        Ok(self.table.get(connection)?.clone())
    }

    async fn open<E: From<Failure>>(
        &mut self,
        address: &str,
        authorities: Option<Authorities>,
    ) -> ResultSet<Resource<Connection>, E> {
        match self.pg.open(address, authorities).await {
            Ok(connection) => Ok(Ok(self.table.push(connection)?)),
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

fn connection<T: Send>(
    accessor: &Accessor<T, OutboundPgFactor>,
    connection: &Resource<Connection>,
) -> wasmtime::Result<Connection> {
    accessor.with(|mut access| access.get().connection(connection))
}

async fn open_async<T: Send>(
    accessor: &Accessor<T, OutboundPgFactor>,
    address: &str,
    authorities: Option<Authorities>,
) -> ResultSet<Resource<Connection>, v4::Error> {
    let pg = accessor.with(|mut access| access.get().pg.clone());
    match pg.open(address, authorities).await {
        Ok(connection) => Ok(Ok(accessor.with(|mut access| access.get().table.push(connection))?)),
        Err(failure) => Ok(Err(failure.into())),
    }
}

impl v4::Host for View<'_> {}

impl v4::HostConnection for View<'_> {
    async fn open(&mut self, address: String) -> ResultSet<Resource<Connection>, v4::Error> {
        self.open(&address, None).await
    }

    async fn query(
        &mut self,
        this: Resource<Connection>,
        statement: String,
        params: Vec<v4::ParameterValue>,
    ) -> ResultSet<v4::RowSet, v4::Error> {
        let connection = self.connection(&this)?;
        let result = query(&connection.0, &statement, &params).await;
        Ok(result.map(|query::ResultSet { columns, rows, .. }| v4::RowSet { columns, rows }).map_err(Into::into))
    }

    async fn execute(
        &mut self,
        this: Resource<Connection>,
        statement: String,
        params: Vec<v4::ParameterValue>,
    ) -> ResultSet<u64, v4::Error> {
        let connection = self.connection(&this)?;
        Ok(execute(&connection.0, &statement, &params).await.map_err(Into::into))
    }

    async fn drop(&mut self, this: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(this)?.give_back();
        Ok(())
    }
}

type Stream = (Vec<v4::Column>, StreamReader<Vec<v4::DbValue>>, FutureReader<Result<(), v4::Error>>);

impl<T: Send + 'static> v4::HostConnectionWithStore<T> for OutboundPgFactor {
    async fn open_async(accessor: &Accessor<T, Self>, address: String) -> ResultSet<Resource<Connection>, v4::Error> {
        open_async(accessor, &address, None).await
    }

    async fn query_async(
        accessor: &Accessor<T, Self>,
        this: Resource<Connection>,
        statement: String,
        params: Vec<v4::ParameterValue>,
    ) -> ResultSet<Stream, v4::Error> {
        let connection = connection(accessor, &this)?;
        match query(&connection.0, &statement, &params).await {
            Err(failure) => Ok(Err(failure.into())),
            Ok(query::ResultSet { columns, rows, held }) => accessor.with(|mut access| {
                let rows = StreamReader::new(&mut access, Handed::new(rows, Some(held)))?;
                let end = FutureReader::new(&mut access, async { wasmtime::error::Ok(Ok(())) })?;
                Ok(Ok((columns, rows, end)))
            }),
        }
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        this: Resource<Connection>,
        statement: String,
        params: Vec<v4::ParameterValue>,
    ) -> ResultSet<u64, v4::Error> {
        let connection = connection(accessor, &this)?;
        Ok(execute(&connection.0, &statement, &params).await.map_err(Into::into))
    }
}

impl v4::HostConnectionBuilder for View<'_> {
    async fn new(&mut self, address: String) -> wasmtime::Result<Resource<ConnectionBuilder>> {
        Ok(self.table.push(self.pg.builder(address))?)
    }

    async fn set_ca_root(&mut self, this: Resource<ConnectionBuilder>, pem: String) -> ResultSet<(), v4::Error> {
        Ok(self.table.get_mut(&this)?.set_authorities(&self.pg.call, &pem).map_err(Into::into))
    }

    async fn build(&mut self, this: Resource<ConnectionBuilder>) -> ResultSet<Resource<Connection>, v4::Error> {
        match self.table.get(&this)?.parts() {
            Ok((address, authorities)) => self.open(&address, authorities).await,
            Err(failure) => Ok(Err(failure.into())),
        }
    }

    async fn drop(&mut self, this: Resource<ConnectionBuilder>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl<T: Send + 'static> v4::HostConnectionBuilderWithStore<T> for OutboundPgFactor {
    async fn build_async(
        accessor: &Accessor<T, Self>,
        this: Resource<ConnectionBuilder>,
    ) -> ResultSet<Resource<Connection>, v4::Error> {
        match accessor.with(|mut access| wasmtime::error::Ok(access.get().table.get(&this)?.parts()))? {
            Ok((address, authorities)) => open_async(accessor, &address, authorities).await,
            Err(failure) => Ok(Err(failure.into())),
        }
    }
}

impl v3::Host for View<'_> {}

impl v3::HostConnection for View<'_> {
    async fn open(&mut self, address: String) -> ResultSet<Resource<Connection>, v3::Error> {
        self.open(&address, None).await
    }

    async fn query(
        &mut self,
        this: Resource<Connection>,
        statement: String,
        params: Vec<v3::ParameterValue>,
    ) -> ResultSet<v3::RowSet, v3::Error> {
        let connection = self.connection(&this)?;
        let params: Vec<_> = params.into_iter().map(Into::into).collect();
        let result = query(&connection.0, &statement, &params).await;
        Ok(result
            .map(|query::ResultSet { columns, rows, .. }| v3::RowSet {
                columns: columns.into_iter().map(Into::into).collect(),
                rows: rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect(),
            })
            .map_err(Into::into))
    }

    async fn execute(
        &mut self,
        this: Resource<Connection>,
        statement: String,
        params: Vec<v3::ParameterValue>,
    ) -> ResultSet<u64, v3::Error> {
        let connection = self.connection(&this)?;
        let params: Vec<_> = params.into_iter().map(Into::into).collect();
        Ok(execute(&connection.0, &statement, &params).await.map_err(Into::into))
    }

    async fn drop(&mut self, this: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(this)?.give_back();
        Ok(())
    }
}

/// Variants that have the same name and content in both versions.
macro_rules! same_variants {
    ($from:path => $to:ty { $($variant:ident),* } $($rest:tt)*) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                use $from as F;
                match value {
                    $(F::$variant(value) => Self::$variant(value),)*
                    $($rest)*
                }
            }
        }
    };
}

same_variants!(v3::ParameterValue => v4::ParameterValue {
    Boolean, Int8, Int16, Int32, Int64, Floating32, Floating64, Str, Binary, Date, Time, Datetime, Timestamp
} v3::ParameterValue::DbNull => Self::DbNull,);

same_variants!(v4::DbValue => v3::DbValue {
    Boolean, Int8, Int16, Int32, Int64, Floating32, Floating64, Str, Binary, Date, Time, Datetime, Timestamp
} v4::DbValue::DbNull => Self::DbNull, _ => Self::Unsupported,);

impl From<v4::Column> for v3::Column {
    fn from(column: v4::Column) -> Self {
        use v3::DbDataType as D;
        use v4::DbDataType as F;
        let data_type = match column.data_type {
            F::Boolean => D::Boolean,
            F::Int8 => D::Int8,
            F::Int16 => D::Int16,
            F::Int32 => D::Int32,
            F::Int64 => D::Int64,
            F::Floating32 => D::Floating32,
            F::Floating64 => D::Floating64,
            F::Str => D::Str,
            F::Binary => D::Binary,
            F::Date => D::Date,
            F::Time => D::Time,
            F::Datetime => D::Datetime,
            F::Timestamp => D::Timestamp,
            _ => D::Other,
        };
        Self { name: column.name, data_type }
    }
}
