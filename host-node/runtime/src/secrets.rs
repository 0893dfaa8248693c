//! `wasmcloud:secrets`, in both versions that were published: a guest gets a handle by one of the keys that its spec lists, and
//! the value by that handle. Other keys are not there for it, whatever the lattice has.

use crate::host::Host;
use lattice::secret::{Secret, Secrets};
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

/// A secret that a guest holds.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct HeldSecret(Secret);

/// What the functions of the interface need of an instance.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    secrets: &'a Arc<Secrets>,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

fn view(host: &mut Host) -> View<'_> {
    View { table: &mut host.table, secrets: &host.secrets }
}

impl View<'_> {
    fn held(&mut self, key: &str) -> wasmtime::Result<Option<Resource<HeldSecret>>> {
        let found = self.secrets.get(key).cloned();
        Ok(found.map(|secret| self.table.push(HeldSecret(secret))).transpose()?)
    }

    /// The bytes are copied into the guest's memory, where they are its own.
    fn value(&self, held: &Resource<HeldSecret>) -> wasmtime::Result<Result<String, Vec<u8>>> {
        let bytes = self.table.get(held)?.0.reveal().to_vec();
        Ok(String::from_utf8(bytes).map_err(|error| error.into_bytes()))
    }

    fn dropped(&mut self, held: Resource<HeldSecret>) -> wasmtime::Result<()> {
        self.table.delete(held)?;
        Ok(())
    }
}

macro_rules! version {
    ($module:ident, $path:literal) => {
        mod $module {
            use super::{HeldSecret, View};
            use bindings::wasmcloud::secrets::{
                reveal,
                store::{self, SecretValue, SecretsError},
            };
            use wasmtime::component::Resource;

            pub(super) mod bindings {
                wasmtime::component::bindgen!({
                    path: $path,
                    world: "wasmcloud:secrets/imports",
                    imports: { default: trappable },
                    with: { "wasmcloud:secrets/store.secret": crate::secrets::HeldSecret },
                });
            }

            impl store::HostSecret for View<'_> {
                fn drop(&mut self, held: Resource<HeldSecret>) -> wasmtime::Result<()> {
                    self.dropped(held)
                }
            }

            impl store::Host for View<'_> {
                fn get(&mut self, key: String) -> wasmtime::Result<Result<Resource<HeldSecret>, SecretsError>> {
                    Ok(self.held(&key)?.ok_or(SecretsError::NotFound))
                }
            }

            impl reveal::Host for View<'_> {
                fn reveal(&mut self, held: Resource<HeldSecret>) -> wasmtime::Result<SecretValue> {
                    Ok(match self.value(&held)? {
                        Ok(text) => SecretValue::String(text),
                        Err(bytes) => SecretValue::Bytes(bytes),
                    })
                }
            }
        }
    };
}
version!(draft, "../../wit/deps/secrets-draft");
version!(first, "../../wit/deps/secrets");

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    use draft::bindings::wasmcloud::secrets as of_draft;
    use first::bindings::wasmcloud::secrets as of_first;
    of_draft::store::add_to_linker::<_, Has>(linker, view)?;
    of_draft::reveal::add_to_linker::<_, Has>(linker, view)?;
    of_first::store::add_to_linker::<_, Has>(linker, view)?;
    of_first::reveal::add_to_linker::<_, Has>(linker, view)
}
