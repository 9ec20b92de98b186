//! `spin:variables`: the component's own variables, resolved when the app was loaded.

use std::sync::Arc;

use anyhow::{Context, Result};
use exagg_app::ComponentSpec;
use exagg_common::template::{Secret, Variables};
use wasmtime::component::{Accessor, HasData, Linker};

use super::{Call, Configure, Factor, Holds, Link};
use crate::factors::bindings::spin::variables::variables as wit;

/// Serves values that cannot fail or change during a run.
pub struct VariablesFactor;

impl Factor for VariablesFactor {
    type Component = Arc<Variables>;
    type Instance = Arc<Variables>;

    fn configure(&self, _: &ComponentSpec, context: &Configure<'_>) -> Result<Self::Component> {
        Ok(Arc::clone(&context.values))
    }

    fn prepare(&self, component: &Self::Component, _: &Call) -> Self::Instance {
        Arc::clone(component)
    }
}

impl<S: Holds<Arc<Variables>>> Link<S> for VariablesFactor {
    fn link(linker: &mut Linker<S>) -> wasmtime::Result<()> {
        wit::add_to_linker::<_, Self>(linker, |store| View(store.part().0))
    }
}

/// The component's variables, with the app's in the places of their names.
pub fn expand(spec: &ComponentSpec, app: &Variables) -> Result<Variables> {
    let value = |(name, template): (&String, &String)| {
        let value = app.expand(template).with_context(|| format!("variable {name}"))?;
        Ok((name.clone(), Secret::new(value)))
    };
    Ok(Variables::new(spec.variables.iter().map(value).collect::<Result<Vec<_>>>()?))
}

/// The component's variables, borrowed from the store.
pub struct View<'a>(&'a Arc<Variables>);

impl HasData for VariablesFactor {
    type Data<'a> = View<'a>;
}

impl wit::Host for View<'_> {}

impl<T: Send> wit::HostWithStore<T> for VariablesFactor {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> wasmtime::Result<Result<String, wit::Error>> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(valid) {
            return Ok(Err(wit::Error::InvalidName(name)));
        }
        let value = accessor.with(|mut access| access.get().0.get(&name).map(|value| value.expose().to_owned()));
        Ok(value.ok_or(wit::Error::Undefined(name)))
    }
}
