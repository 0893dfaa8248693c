//! `wasi:filesystem@0.3` with quotas: what can make a volume grow pays first, the rest is wasmtime's as it is.

use super::{
    Files, FilesView, files, plain_files,
    quota::{Paid, Quota},
};
use crate::host::Host;
use std::{
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{sync::oneshot, task::JoinHandle};
use wasmtime::{
    AsContextMut as _, StoreContextMut,
    component::{Access, Accessor, FutureReader, Linker, Resource, Source, StreamConsumer, StreamReader, StreamResult},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystem},
    p3::{
        bindings::filesystem::{
            preopens,
            types::{
                self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, Filesize,
                HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
            },
        },
        filesystem::{FilesystemError, FilesystemResult},
    },
};

/// Bytes that are written at once.
const WRITE_BYTES_MAX: usize = 64 << 10;

type Done = Result<(), ErrorCode>;
/// A file and who pays for what is written to it, or why nothing may be.
type Paying = Result<(Arc<Quota>, Arc<File>), ErrorCode>;

/// Puts it in the place of wasmtime's own.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, Files>(linker, files)?;
    preopens::add_to_linker::<_, Files>(linker, files)
}

fn quota(store: &Accessor<Host, Files>, fd: &Resource<Descriptor>) -> Option<Arc<Quota>> {
    store.with(|mut access| access.get().quota(fd))
}

fn wasmtimes(store: &Accessor<Host, Files>) -> Accessor<Host, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(plain_files)
}

fn wasmtimes_now<'a>(store: &'a mut Access<'_, Host, Files>) -> Access<'a, Host, WasiFilesystem> {
    Access::<Host, WasiFilesystem>::new(store.as_context_mut(), plain_files)
}

async fn pay_for_entry(store: &Accessor<Host, Files>, fd: &Resource<Descriptor>) -> FilesystemResult<Option<Paid>> {
    match quota(store, fd) {
        Some(quota) => Ok(Some(quota.run(Quota::entry).await?)),
        None => Ok(None),
    }
}

impl FilesView<'_> {
    /// The file behind a descriptor that a guest may write to, where it lies in a volume that has a quota.
    fn pays(&mut self, fd: &Resource<Descriptor>) -> wasmtime::Result<Option<Paying>> {
        let Some(quota) = self.quota(fd) else { return Ok(None) };
        Ok(Some(match self.inner.table.get(fd)? {
            Descriptor::File(file) if file.perms.write_not_permitted() => Err(ErrorCode::NotPermitted),
            Descriptor::File(file) => Ok((quota, file.file.clone())),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor),
        }))
    }
}

/// Write what a stream brings, at an offset or at the end. Without an answer it is not for us to do.
fn write_stream(
    store: &mut Access<'_, Host, Files>,
    fd: &Resource<Descriptor>,
    data: &mut Option<StreamReader<u8>>,
    at: Option<Filesize>,
) -> wasmtime::Result<Option<FutureReader<Done>>> {
    let Some(paying) = store.get().pays(fd)? else { return Ok(None) };
    let Some(mut data) = data.take() else { return Ok(None) };
    let (tell, told) = oneshot::channel();
    match paying {
        Ok((quota, file)) => {
            let writer = Writer { quota, file, at, tell: Some(tell), task: None };
            data.pipe(&mut *store, writer)?;
        }
        Err(error) => {
            data.close(&mut *store)?;
            let _ = tell.send(Err(error));
        }
    }
    Ok(Some(FutureReader::new(store, async move {
        // A writer that is dropped has written all that it was given.
        wasmtime::error::Ok(told.await.unwrap_or(Ok(())))
    })?))
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl types::HostDescriptor for FilesView<'_> {
    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.closed(&fd);
        types::HostDescriptor::drop(&mut self.inner, fd)
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let directories = preopens::Host::get_directories(&mut self.inner)?;
        self.preopened(&directories);
        Ok(directories)
    }
}

impl HostDescriptorWithStore<Host> for Files {
    fn write_via_stream(
        mut store: Access<'_, Host, Self>,
        fd: Resource<Descriptor>,
        data: StreamReader<u8>,
        at: Filesize,
    ) -> wasmtime::Result<FutureReader<Done>> {
        let mut data = Some(data);
        let ours = write_stream(&mut store, &fd, &mut data, Some(at))?;
        match (ours, data) {
            (Some(done), _) => Ok(done),
            (None, Some(data)) => WasiFilesystem::write_via_stream(wasmtimes_now(&mut store), fd, data, at),
            (None, None) => wasmtime::bail!("a stream was lost"),
        }
    }

    fn append_via_stream(
        mut store: Access<'_, Host, Self>,
        fd: Resource<Descriptor>,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Done>> {
        let mut data = Some(data);
        let ours = write_stream(&mut store, &fd, &mut data, None)?;
        match (ours, data) {
            (Some(done), _) => Ok(done),
            (None, Some(data)) => WasiFilesystem::append_via_stream(wasmtimes_now(&mut store), fd, data),
            (None, None) => wasmtime::bail!("a stream was lost"),
        }
    }

    async fn set_size(store: &Accessor<Host, Self>, fd: Resource<Descriptor>, size: Filesize) -> FilesystemResult<()> {
        match store.with(|mut access| access.get().pays(&fd)).map_err(FilesystemError::trap)? {
            Some(paying) => {
                let (quota, file) = paying?;
                Ok(quota.run(move |quota| quota.set_size(&file, size)).await?)
            }
            None => WasiFilesystem::set_size(&wasmtimes(store), fd, size).await,
        }
    }

    async fn create_directory_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        let _paid = pay_for_entry(store, &fd).await?;
        WasiFilesystem::create_directory_at(&wasmtimes(store), fd, path).await
    }

    async fn symlink_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        old_path: String,
        new_path: String,
    ) -> FilesystemResult<()> {
        let _paid = pay_for_entry(store, &fd).await?;
        WasiFilesystem::symlink_at(&wasmtimes(store), fd, old_path, new_path).await
    }

    async fn link_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        old_flags: PathFlags,
        old_path: String,
        new: Resource<Descriptor>,
        new_path: String,
    ) -> FilesystemResult<()> {
        if !store.with(|mut access| access.get().is_one_volume(&fd, &new)) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let _paid = match quota(store, &new) {
            Some(quota) => Some(quota.run(Quota::link).await?),
            None => None,
        };
        WasiFilesystem::link_at(&wasmtimes(store), fd, old_flags, old_path, new, new_path).await
    }

    async fn rename_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        old_path: String,
        new: Resource<Descriptor>,
        new_path: String,
    ) -> FilesystemResult<()> {
        if !store.with(|mut access| access.get().is_one_volume(&fd, &new)) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let _paid = match quota(store, &new) {
            Some(quota) => Some(quota.run(Quota::rename).await?),
            None => None,
        };
        WasiFilesystem::rename_at(&wasmtimes(store), fd, old_path, new, new_path).await
    }

    async fn open_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Resource<Descriptor>> {
        let quota = quota(store, &fd);
        let _paid = match open_flags.contains(OpenFlags::CREATE) {
            true => pay_for_entry(store, &fd).await?,
            false => None,
        };
        // Not before it is paid for: measuring waits for those who open.
        let _opening = quota.as_ref().map(Quota::opening);
        let opened = WasiFilesystem::open_at(&wasmtimes(store), fd, path_flags, path, open_flags, flags).await?;
        if let Some(quota) = quota {
            store.with(|mut access| access.get().opened(&opened, quota)).map_err(FilesystemError::trap)?;
        }
        Ok(opened)
    }

    fn read_via_stream(
        mut store: Access<'_, Host, Self>,
        fd: Resource<Descriptor>,
        at: Filesize,
    ) -> wasmtime::Result<(StreamReader<u8>, FutureReader<Done>)> {
        WasiFilesystem::read_via_stream(wasmtimes_now(&mut store), fd, at)
    }
    fn read_directory(
        mut store: Access<'_, Host, Self>,
        fd: Resource<Descriptor>,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, FutureReader<Done>)> {
        WasiFilesystem::read_directory(wasmtimes_now(&mut store), fd)
    }
    async fn advise(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        at: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FilesystemResult<()> {
        WasiFilesystem::advise(&wasmtimes(store), fd, at, len, advice).await
    }
    async fn sync_data(store: &Accessor<Host, Self>, fd: Resource<Descriptor>) -> FilesystemResult<()> {
        WasiFilesystem::sync_data(&wasmtimes(store), fd).await
    }
    async fn get_flags(store: &Accessor<Host, Self>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorFlags> {
        WasiFilesystem::get_flags(&wasmtimes(store), fd).await
    }
    async fn get_type(store: &Accessor<Host, Self>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorType> {
        WasiFilesystem::get_type(&wasmtimes(store), fd).await
    }
    async fn set_times(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        WasiFilesystem::set_times(&wasmtimes(store), fd, accessed, modified).await
    }
    async fn sync(store: &Accessor<Host, Self>, fd: Resource<Descriptor>) -> FilesystemResult<()> {
        WasiFilesystem::sync(&wasmtimes(store), fd).await
    }
    async fn stat(store: &Accessor<Host, Self>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorStat> {
        WasiFilesystem::stat(&wasmtimes(store), fd).await
    }
    async fn stat_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        WasiFilesystem::stat_at(&wasmtimes(store), fd, path_flags, path).await
    }
    async fn set_times_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        WasiFilesystem::set_times_at(&wasmtimes(store), fd, path_flags, path, accessed, modified).await
    }
    async fn readlink_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<String> {
        WasiFilesystem::readlink_at(&wasmtimes(store), fd, path).await
    }
    async fn remove_directory_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        WasiFilesystem::remove_directory_at(&wasmtimes(store), fd, path).await
    }
    async fn unlink_file_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        WasiFilesystem::unlink_file_at(&wasmtimes(store), fd, path).await
    }
    async fn is_same_object(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        WasiFilesystem::is_same_object(&wasmtimes(store), fd, other).await
    }
    async fn metadata_hash(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
    ) -> FilesystemResult<MetadataHashValue> {
        WasiFilesystem::metadata_hash(&wasmtimes(store), fd).await
    }
    async fn metadata_hash_at(
        store: &Accessor<Host, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        WasiFilesystem::metadata_hash_at(&wasmtimes(store), fd, path_flags, path).await
    }
}

/// Takes a stream of bytes into a file, and pays for them.
struct Writer {
    quota: Arc<Quota>,
    file: Arc<File>,
    /// None: at its end.
    at: Option<u64>,
    tell: Option<oneshot::Sender<Done>>,
    task: Option<JoinHandle<io::Result<usize>>>,
}

impl Writer {
    fn fail(&mut self, error: ErrorCode) -> StreamResult {
        if let Some(tell) = self.tell.take() {
            let _ = tell.send(Err(error));
        }
        StreamResult::Dropped
    }
}

impl StreamConsumer<Host> for Writer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, Host>,
        source: Source<'_, u8>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let this = &mut *self;
        let task = this.task.get_or_insert_with(|| {
            let offered = source.remaining();
            let bytes = offered.get(..WRITE_BYTES_MAX).unwrap_or(offered).to_vec();
            let (file, at) = (this.file.clone(), this.at);
            tokio::spawn(this.quota.clone().run(move |quota| quota.write(&file, &bytes, at)))
        });
        // What is being written can't be taken back: it is waited for though the guest gave up.
        let written = ready!(Pin::new(task).poll(context));
        this.task = None;
        Poll::Ready(Ok(match written {
            Ok(Ok(count)) => {
                source.mark_read(count);
                this.at = this.at.map(|at| at.saturating_add(count as u64));
                StreamResult::Completed
            }
            Ok(Err(error)) => this.fail(error.into()),
            Err(_) => this.fail(ErrorCode::Io),
        }))
    }
}
