//! `wasi:blobstore@0.2.0-draft` over object stores: containers, and objects that are read and written by streams. What is
//! granted, and how much may be in memory, is in `network/objects.rs`; the streams are in `blobstore/streams.rs`. A guest is
//! told in words what is known of an operation that failed; no server is named.

mod streams;

use crate::{
    host::Host,
    inherited::Inherited,
    network::{Container, Network, READ_AHEAD_BYTES},
    operations::{Interface, Kind, Operation},
};
use bindings::wasi::blobstore::{
    blobstore, container,
    types::{self, ContainerMetadata, ObjectId, ObjectMetadata},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lattice::{
    Fut,
    nats::{Code, Failure, Feed, Outcome as Known},
    objects::{Expect, Object, Piece, Put, TryFeed},
};
use std::sync::Arc;
use streams::{Download, Outgoing};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

mod bindings {
    //! Generated from `wit/deps/blobstore`.
    wasmtime::component::bindgen!({
        path: "../../wit/deps/blobstore",
        world: "wasi:blobstore/imports",
        imports: { default: async | trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:blobstore/types.outgoing-value": super::OutgoingValue,
            "wasi:blobstore/types.incoming-value": super::IncomingValue,
            "wasi:blobstore/container.container": super::OpenContainer,
            "wasi:blobstore/container.stream-object-names": super::ObjectNames,
        },
    });
}

/// The longest value that is given as a list of bytes.
const SYNC_BYTES_MAX: u64 = 16 << 20;
/// Names that one call brings.
const NAMES_MAX: usize = 1_000;
/// Objects of one `delete-objects`, and how many of them are under way at a time.
const DELETE_MAX: usize = 1_000;
const DELETES_AT_A_TIME: usize = 16;

/// A container that a guest has open.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OpenContainer(Container);

/// A value that a guest writes.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct OutgoingValue(Outgoing);

/// A value that a guest is to read: as it was when it was asked for.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct IncomingValue {
    container: Container,
    object: Object,
    from: u64,
    to: u64,
}

/// A list that a guest reads.
#[expect(unreachable_pub, reason = "the generated bindings pass it on as theirs")]
pub struct ObjectNames {
    list: TryFeed<Object>,
    is_over: bool,
}

/// What the functions of the interface need of an instance.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    network: &'a Arc<Network>,
    inherited: Option<&'a Inherited>,
}

struct Has;

impl HasData for Has {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    fn view(host: &mut Host) -> View<'_> {
        let (table, network, inherited) = host.table_and_network();
        View { table, network, inherited }
    }
    types::add_to_linker::<_, Has>(linker, view)?;
    container::add_to_linker::<_, Has>(linker, view)?;
    blobstore::add_to_linker::<_, Has>(linker, view)
}

type Outcome<T> = wasmtime::Result<Result<T, String>>;

/// In words, since the interface has no others.
fn told(failure: Failure) -> String {
    match failure.outcome {
        Known::DefinitelyNot => failure.detail,
        Known::Maybe => format!("{}: what was asked may have been done, or may yet be", failure.detail),
    }
}

/// The end of an operation.
fn of<T>(operation: Operation, result: Result<T, Failure>) -> Outcome<T> {
    Ok(operation.end(result).map_err(told))
}

fn seconds(nanos: u64) -> u64 {
    nanos / 1_000_000_000
}

fn absent(name: &str) -> Failure {
    Failure::not(Code::NotFound, format!("there is no object {:?}", lattice::limits::one_line(name, 64)))
}

impl View<'_> {
    fn container(&self, open: &Resource<OpenContainer>) -> wasmtime::Result<Container> {
        Ok(self.table.get(open)?.0.clone())
    }

    fn operation(&self, kind: Kind, name: &'static str) -> Operation {
        let mut inherited = self.inherited.cloned().unwrap_or_default();
        self.network.operation((Interface::Blobstore, kind, name), &mut inherited)
    }

    /// In a container.
    fn within(
        &self,
        open: &Resource<OpenContainer>,
        (kind, name): (Kind, &'static str),
    ) -> wasmtime::Result<(Container, Operation)> {
        let container = self.container(open)?;
        let operation = self.operation(kind, name).on(container.name.as_str());
        Ok((container, operation))
    }
}

async fn find(network: &Network, container: &Container, name: &str) -> Result<Option<Object>, Failure> {
    let _turn = network.container_turn().await?;
    container.objects.object(name).await
}

async fn delete(network: &Network, container: &Container, name: &str) -> Result<(), Failure> {
    let _turn = network.container_turn().await?;
    container.objects.delete(name, Expect::Anything).await.map(drop)
}

async fn copy(network: &Network, from: &ObjectId, to: &ObjectId) -> Result<(), Failure> {
    let source = network.open_container(&from.container).await?;
    let target = network.open_container(&to.container).await?;
    network.judge_change(&target)?;
    let object = find(network, &source, &from.object).await?.ok_or_else(|| absent(&from.object))?;
    let _read = network.room_to_read(&*source.objects, 0).await?;
    let _written = network.room_to_write().await?;
    let chunks = source.objects.read(&object, 0, object.size).await?;
    let (pieces, failed) = Copied::new(chunks);
    let written = target.objects.write(&to.object, Put::default(), Box::new(pieces)).await;
    // Of what was read, where that is why there was no end.
    match crate::lock(&failed).take() {
        Some(failure) => Err(failure),
        None => written.map(drop),
    }
}

/// What is read of one object, to be written to another.
struct Copied {
    chunks: TryFeed<Bytes>,
    failed: Arc<std::sync::Mutex<Option<Failure>>>,
    is_over: bool,
}

impl Copied {
    fn new(chunks: TryFeed<Bytes>) -> (Self, Arc<std::sync::Mutex<Option<Failure>>>) {
        let failed = Arc::default();
        (Self { chunks, failed: Arc::clone(&failed), is_over: false }, failed)
    }
}

impl Feed<Piece> for Copied {
    fn next(&mut self) -> Fut<'_, Option<Piece>> {
        Box::pin(async {
            if self.is_over {
                return None;
            }
            match self.chunks.next().await {
                Some(Ok(bytes)) => return Some(Piece::Bytes(bytes)),
                Some(Err(failure)) => *crate::lock(&self.failed) = Some(failure),
                None => {
                    self.is_over = true;
                    return Some(Piece::End);
                }
            }
            self.is_over = true;
            None
        })
    }
}

impl types::Host for View<'_> {}
impl container::Host for View<'_> {}

impl types::HostOutgoingValue for View<'_> {
    async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<OutgoingValue>> {
        Ok(self.table.push(OutgoingValue(Outgoing::new()))?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        value: Resource<OutgoingValue>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        if self.table.get(&value)?.0.is_taken() {
            return Ok(Err(()));
        }
        let Ok(room) = self.network.room_to_write().await else { return Ok(Err(())) };
        let body: DynOutputStream = Box::new(self.table.get_mut(&value)?.0.take_body(room));
        Ok(Ok(self.table.push(body)?))
    }

    async fn finish(&mut self, value: Resource<OutgoingValue>) -> Outcome<()> {
        let operation = self.operation(Kind::Write, "finish");
        let OutgoingValue(value) = self.table.delete(value)?;
        of(operation, value.finish().await)
    }

    async fn drop(&mut self, value: Resource<OutgoingValue>) -> wasmtime::Result<()> {
        self.table.delete(value)?;
        Ok(())
    }
}

impl types::HostIncomingValue for View<'_> {
    async fn incoming_value_consume_sync(&mut self, value: Resource<IncomingValue>) -> Outcome<Vec<u8>> {
        let IncomingValue { container, object, from, to } = self.table.delete(value)?;
        let operation = self.operation(Kind::Read, "incoming-value-consume-sync").on(container.name.as_str());
        let network = self.network;
        let read = async {
            let size = to - from;
            if size > SYNC_BYTES_MAX {
                let text =
                    format!("{size} bytes are too many for a list, which is at most {SYNC_BYTES_MAX}: read a stream");
                return Err(Failure::not(Code::TooLarge(SYNC_BYTES_MAX), text));
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let _room = network.room_to_read(&*container.objects, size).await?;
            let mut chunks = container.objects.read(&object, from, to).await?;
            let mut bytes = Vec::with_capacity(size);
            while let Some(chunk) = chunks.next().await {
                bytes.extend_from_slice(&chunk?);
            }
            Ok(bytes)
        };
        of(operation, read.await)
    }

    async fn incoming_value_consume_async(
        &mut self,
        value: Resource<IncomingValue>,
    ) -> Outcome<Resource<DynInputStream>> {
        let IncomingValue { container, object, from, to } = self.table.delete(value)?;
        let operation = self.operation(Kind::Read, "incoming-value-consume-async").on(container.name.as_str());
        let network = self.network;
        let begin = async {
            let room = network.room_to_read(&*container.objects, READ_AHEAD_BYTES).await?;
            let chunks = container.objects.read(&object, from, to).await?;
            Ok(Download::new(chunks, room))
        };
        match operation.end(begin.await) {
            Ok(download) => {
                let stream: DynInputStream = Box::new(download);
                Ok(Ok(self.table.push(stream)?))
            }
            Err(failure) => Ok(Err(told(failure))),
        }
    }

    async fn size(&mut self, value: Resource<IncomingValue>) -> wasmtime::Result<u64> {
        let value = self.table.get(&value)?;
        Ok(value.to - value.from)
    }

    async fn drop(&mut self, value: Resource<IncomingValue>) -> wasmtime::Result<()> {
        self.table.delete(value)?;
        Ok(())
    }
}

impl container::HostContainer for View<'_> {
    async fn name(&mut self, open: Resource<OpenContainer>) -> Outcome<String> {
        Ok(Ok(self.container(&open)?.name.to_string()))
    }

    async fn info(&mut self, open: Resource<OpenContainer>) -> Outcome<ContainerMetadata> {
        let container = self.container(&open)?;
        let created_at = seconds(container.objects.created());
        Ok(Ok(ContainerMetadata { name: container.name.to_string(), created_at }))
    }

    async fn get_data(
        &mut self,
        open: Resource<OpenContainer>,
        name: String,
        start: u64,
        end: u64,
    ) -> Outcome<Resource<IncomingValue>> {
        let (container, operation) = self.within(&open, (Kind::Read, "get-data"))?;
        let find = async {
            if start > end {
                let text = format!("the range ends at {end}, before it begins, at {start}");
                return Err(Failure::not(Code::Invalid("end".into()), text));
            }
            find(self.network, &container, &name).await?.ok_or_else(|| absent(&name))
        };
        let object = match operation.end(find.await) {
            Ok(object) => object,
            Err(failure) => return Ok(Err(told(failure))),
        };
        // The end is the last byte's offset, and may lie behind the last one that there is.
        let (from, to) = (start.min(object.size), end.saturating_add(1).min(object.size));
        Ok(Ok(self.table.push(IncomingValue { container, object, from, to })?))
    }

    async fn write_data(
        &mut self,
        open: Resource<OpenContainer>,
        name: String,
        value: Resource<OutgoingValue>,
    ) -> Outcome<()> {
        let (container, operation) = self.within(&open, (Kind::Write, "write-data"))?;
        let may_begin = self.network.judge_change(&container).and_then(|()| lattice::objects::check_name(&name));
        let OutgoingValue(value) = self.table.get_mut(&value)?;
        of(operation, may_begin.and_then(|()| value.write_to(container.objects, name)))
    }

    async fn list_objects(&mut self, open: Resource<OpenContainer>) -> Outcome<Resource<ObjectNames>> {
        let (container, operation) = self.within(&open, (Kind::List, "list-objects"))?;
        let network = self.network;
        let list = async {
            let _turn = network.container_turn().await?;
            container.objects.list().await
        };
        match operation.end(list.await) {
            Ok(list) => Ok(Ok(self.table.push(ObjectNames { list, is_over: false })?)),
            Err(failure) => Ok(Err(told(failure))),
        }
    }

    async fn delete_object(&mut self, open: Resource<OpenContainer>, name: String) -> Outcome<()> {
        let (container, operation) = self.within(&open, (Kind::Write, "delete-object"))?;
        let deleted = match self.network.judge_change(&container) {
            Ok(()) => delete(self.network, &container, &name).await,
            Err(failure) => Err(failure),
        };
        of(operation, deleted)
    }

    async fn delete_objects(&mut self, open: Resource<OpenContainer>, names: Vec<String>) -> Outcome<()> {
        let (container, operation) = self.within(&open, (Kind::Write, "delete-objects"))?;
        let network = self.network;
        let delete_all = async {
            network.judge_change(&container)?;
            if names.len() > DELETE_MAX {
                let text = format!("{} objects in one call; at most {DELETE_MAX} are allowed", names.len());
                return Err(Failure::not(Code::Invalid("names".into()), text));
            }
            let container = &container;
            let deletes = names.into_iter().map(|name| async move { delete(network, container, &name).await });
            stream::iter(deletes).buffer_unordered(DELETES_AT_A_TIME).try_collect::<()>().await
        };
        of(operation, delete_all.await)
    }

    async fn has_object(&mut self, open: Resource<OpenContainer>, name: String) -> Outcome<bool> {
        let (container, operation) = self.within(&open, (Kind::Read, "has-object"))?;
        of(operation, find(self.network, &container, &name).await.map(|object| object.is_some()))
    }

    async fn object_info(&mut self, open: Resource<OpenContainer>, name: String) -> Outcome<ObjectMetadata> {
        let (container, operation) = self.within(&open, (Kind::Read, "object-info"))?;
        let found = find(self.network, &container, &name).await;
        let info = found.and_then(|object| object.ok_or_else(|| absent(&name))).map(|object| ObjectMetadata {
            name,
            container: container.name.to_string(),
            created_at: seconds(object.modified),
            size: object.size,
        });
        of(operation, info)
    }

    async fn clear(&mut self, open: Resource<OpenContainer>) -> Outcome<()> {
        let (container, operation) = self.within(&open, (Kind::Write, "clear"))?;
        let network = self.network;
        let clear = async {
            network.judge_change(&container)?;
            let mut list = container.objects.list().await?;
            while let Some(object) = list.next().await {
                delete(network, &container, &object?.name).await?;
            }
            Ok(())
        };
        of(operation, clear.await)
    }

    async fn drop(&mut self, open: Resource<OpenContainer>) -> wasmtime::Result<()> {
        self.table.delete(open)?;
        Ok(())
    }
}

impl ObjectNames {
    /// Up to so many; fewer where the list ends.
    async fn take(&mut self, most: usize) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        while !self.is_over && names.len() < most {
            match self.list.next().await {
                Some(object) => names.push(object.inspect_err(|_| self.is_over = true)?.name),
                None => self.is_over = true,
            }
        }
        Ok(names)
    }
}

impl container::HostStreamObjectNames for View<'_> {
    async fn read_stream_object_names(
        &mut self,
        names: Resource<ObjectNames>,
        len: u64,
    ) -> Outcome<(Vec<String>, bool)> {
        let names = self.table.get_mut(&names)?;
        let most = usize::try_from(len).unwrap_or(usize::MAX).min(NAMES_MAX);
        let taken = names.take(most).await;
        Ok(taken.map(|taken| (taken, names.is_over)).map_err(told))
    }

    async fn skip_stream_object_names(&mut self, names: Resource<ObjectNames>, num: u64) -> Outcome<(u64, bool)> {
        let names = self.table.get_mut(&names)?;
        let mut skipped = 0;
        while skipped < num && !names.is_over {
            let most = usize::try_from(num - skipped).unwrap_or(usize::MAX).min(NAMES_MAX);
            match names.take(most).await {
                Ok(taken) => skipped += taken.len() as u64,
                Err(failure) => return Ok(Err(told(failure))),
            }
        }
        Ok(Ok((skipped, names.is_over)))
    }

    async fn drop(&mut self, names: Resource<ObjectNames>) -> wasmtime::Result<()> {
        self.table.delete(names)?;
        Ok(())
    }
}

impl blobstore::Host for View<'_> {
    async fn create_container(&mut self, name: String) -> Outcome<Resource<OpenContainer>> {
        let operation = self.operation(Kind::Open, "create-container").on(&name);
        let refused = match self.network.open_container(&name).await {
            Ok(container) => {
                let text = format!("the container {} is there already: it is made by whoever owns it", container.name);
                Err(Failure::not(Code::Other, text))
            }
            Err(failure) => Err(failure),
        };
        of(operation, refused)
    }

    async fn get_container(&mut self, name: String) -> Outcome<Resource<OpenContainer>> {
        let operation = self.operation(Kind::Open, "get-container").on(&name);
        match operation.end(self.network.open_container(&name).await) {
            Ok(container) => Ok(Ok(self.table.push(OpenContainer(container))?)),
            Err(failure) => Ok(Err(told(failure))),
        }
    }

    async fn delete_container(&mut self, name: String) -> Outcome<()> {
        let operation = self.operation(Kind::Open, "delete-container").on(&name);
        let refused = match self.network.open_container(&name).await {
            Ok(container) => {
                let text = format!("the container {} is deleted by whoever owns it, not by guests", container.name);
                Err(Failure::not(Code::Denied, text))
            }
            Err(failure) => Err(failure),
        };
        of(operation, refused)
    }

    async fn container_exists(&mut self, name: String) -> Outcome<bool> {
        let operation = self.operation(Kind::Open, "container-exists").on(&name);
        let is_there = match self.network.has_container(&name) {
            false => Ok(false),
            true => match self.network.open_container(&name).await {
                Err(failure) if failure.code == Code::NotFound => Ok(false),
                opened => opened.map(|_| true),
            },
        };
        of(operation, is_there)
    }

    async fn copy_object(&mut self, src: ObjectId, dest: ObjectId) -> Outcome<()> {
        let operation = self.operation(Kind::Write, "copy-object");
        let operation = operation.with("db.collection.name", || dest.container.clone());
        of(operation, copy(self.network, &src, &dest).await)
    }

    async fn move_object(&mut self, src: ObjectId, dest: ObjectId) -> Outcome<()> {
        let operation = self.operation(Kind::Write, "move-object");
        let operation = operation.with("db.collection.name", || dest.container.clone());
        let network = self.network;
        let moved = async {
            let source = network.open_container(&src.container).await?;
            network.judge_change(&source)?;
            if (&src.container, &src.object) == (&dest.container, &dest.object) {
                return find(network, &source, &src.object).await?.map(drop).ok_or_else(|| absent(&src.object));
            }
            copy(network, &src, &dest).await?;
            delete(network, &source, &src.object).await
        };
        of(operation, moved.await)
    }
}
