//! `wasi:filesystem@0.2` with quotas: what can make a volume grow pays first, the rest is wasmtime's as it is.

use super::{Files, FilesView, files, quota::Quota};
use bytes::Bytes;
use std::{fs::File, io, mem, sync::Arc};
use tokio::task::JoinHandle;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::{
    async_trait,
    filesystem::Descriptor,
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError, StreamResult,
        bindings::filesystem::{
            preopens,
            types::{
                self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
                ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp,
                OpenFlags, PathFlags,
            },
        },
    },
};

/// Bytes that one write of a stream takes.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Puts it in the place of wasmtime's own.
pub(crate) fn add_to_linker(linker: &mut Linker<crate::host::Host>) -> wasmtime::Result<()> {
    types::add_to_linker::<_, Files>(linker, files)?;
    preopens::add_to_linker::<_, Files>(linker, files)
}

impl FilesView<'_> {
    /// The file behind a descriptor that a guest may write to, where it lies in a volume that has a quota.
    fn paying(&mut self, fd: &Resource<Descriptor>) -> FsResult<Option<(Arc<Quota>, Arc<File>)>> {
        let Some(quota) = self.quota(fd) else { return Ok(None) };
        match self.inner.table.get(fd)? {
            Descriptor::File(file) if file.perms.write_not_permitted() => Err(ErrorCode::NotPermitted.into()),
            Descriptor::File(file) => Ok(Some((quota, file.file.clone()))),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    fn stream(&mut self, fd: Resource<Descriptor>, at: Option<Filesize>) -> FsResult<Resource<DynOutputStream>> {
        let Some((quota, file)) = self.paying(&fd)? else {
            return match at {
                Some(at) => self.inner.write_via_stream(fd, at),
                None => self.inner.append_via_stream(fd),
            };
        };
        let stream: DynOutputStream = Box::new(Output { quota, file, at, state: Writing::Ready });
        Ok(self.inner.table.push(stream)?)
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let directories = preopens::Host::get_directories(&mut self.inner)?;
        self.preopened(&directories);
        Ok(directories)
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.inner, error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        self.inner.filesystem_error_code(error)
    }
}

impl HostDescriptor for FilesView<'_> {
    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        match self.paying(&fd)? {
            Some((quota, file)) => Ok(quota.run(move |quota| quota.set_size(&file, size)).await?),
            None => self.inner.set_size(fd, size).await,
        }
    }

    async fn write(&mut self, fd: Resource<Descriptor>, bytes: Vec<u8>, at: Filesize) -> FsResult<Filesize> {
        match self.paying(&fd)? {
            Some((quota, file)) => Ok(quota.run(move |quota| quota.write(&file, &bytes, Some(at))).await? as Filesize),
            None => self.inner.write(fd, bytes, at).await,
        }
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, at: Filesize) -> FsResult<Resource<DynOutputStream>> {
        self.stream(fd, Some(at))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.stream(fd, None)
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let _paid = match self.quota(&fd) {
            Some(quota) => Some(quota.run(Quota::entry).await?),
            None => None,
        };
        self.inner.create_directory_at(fd, path).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_flags: PathFlags,
        old_path: String,
        new: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        if !self.is_one_volume(&fd, &new) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let _paid = match self.quota(&new) {
            Some(quota) => Some(quota.run(Quota::link).await?),
            None => None,
        };
        self.inner.link_at(fd, old_flags, old_path, new, new_path).await
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let quota = self.quota(&fd);
        let _paid = match &quota {
            Some(quota) if open_flags.contains(OpenFlags::CREATE) => {
                let quota = quota.clone();
                Some(quota.run(Quota::entry).await?)
            }
            _ => None,
        };
        // Not before it is paid for: measuring waits for those who open.
        let _opening = quota.as_ref().map(Quota::opening);
        let opened = self.inner.open_at(fd, path_flags, path, open_flags, flags).await?;
        if let Some(quota) = quota {
            self.opened(&opened, quota)?;
        }
        Ok(opened)
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        if !self.is_one_volume(&fd, &new) {
            return Err(ErrorCode::CrossDevice.into());
        }
        let _paid = match self.quota(&new) {
            Some(quota) => Some(quota.run(Quota::rename).await?),
            None => None,
        };
        self.inner.rename_at(fd, old_path, new, new_path).await
    }

    async fn symlink_at(&mut self, fd: Resource<Descriptor>, old_path: String, new_path: String) -> FsResult<()> {
        let _paid = match self.quota(&fd) {
            Some(quota) => Some(quota.run(Quota::entry).await?),
            None => None,
        };
        self.inner.symlink_at(fd, old_path, new_path).await
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.closed(&fd);
        HostDescriptor::drop(&mut self.inner, fd)
    }

    async fn advise(&mut self, fd: Resource<Descriptor>, at: Filesize, len: Filesize, advice: Advice) -> FsResult<()> {
        self.inner.advise(fd, at, len, advice).await
    }
    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync_data(fd).await
    }
    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.inner.get_flags(fd).await
    }
    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.inner.get_type(fd).await
    }
    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner.set_times(fd, accessed, modified).await
    }
    async fn read(&mut self, fd: Resource<Descriptor>, len: Filesize, at: Filesize) -> FsResult<(Vec<u8>, bool)> {
        self.inner.read(fd, len, at).await
    }
    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        self.inner.read_directory(fd).await
    }
    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync(fd).await
    }
    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.inner.stat(fd).await
    }
    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.inner.stat_at(fd, path_flags, path).await
    }
    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner.set_times_at(fd, path_flags, path, accessed, modified).await
    }
    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.inner.readlink_at(fd, path).await
    }
    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.inner.remove_directory_at(fd, path).await
    }
    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.inner.unlink_file_at(fd, path).await
    }
    fn read_via_stream(&mut self, fd: Resource<Descriptor>, at: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.inner.read_via_stream(fd, at)
    }
    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        self.inner.is_same_object(a, b).await
    }
    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.inner.metadata_hash(fd).await
    }
    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.inner.metadata_hash_at(fd, path_flags, path).await
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.inner.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.inner, stream)
    }
}

/// A stream into a file that pays for what it writes.
struct Output {
    quota: Arc<Quota>,
    file: Arc<File>,
    /// None: at its end.
    at: Option<u64>,
    state: Writing,
}

enum Writing {
    Ready,
    UnderWay(JoinHandle<io::Result<u64>>),
    Failed(io::Error),
    Closed,
}

impl Output {
    fn failed(&mut self) -> Result<(), StreamError> {
        match mem::replace(&mut self.state, Writing::Closed) {
            Writing::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            Writing::Closed => Err(StreamError::Closed),
            state => {
                self.state = state;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.failed()?;
        if matches!(self.state, Writing::UnderWay(_)) || bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("more was written than check-write allowed"));
        }
        let (file, at) = (self.file.clone(), self.at);
        self.state = Writing::UnderWay(tokio::spawn(self.quota.clone().run(move |quota| {
            let mut written = 0;
            while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
                match quota.write(&file, rest, at.map(|at| at.saturating_add(written as u64))) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(written as u64)
        })));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // Nothing waits but what is under way.
        self.failed()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.failed()?;
        Ok(if matches!(self.state, Writing::Ready) { WRITE_BYTES_MAX } else { 0 })
    }

    async fn cancel(&mut self) {
        if let Writing::UnderWay(task) = mem::replace(&mut self.state, Writing::Closed) {
            // It can't be stopped, and the guest is not to have any number of them.
            let _ = task.await;
        }
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        let Writing::UnderWay(task) = &mut self.state else { return };
        self.state = match task.await {
            Ok(Ok(written)) => {
                self.at = self.at.map(|at| at.saturating_add(written));
                Writing::Ready
            }
            Ok(Err(error)) => Writing::Failed(error),
            Err(error) => Writing::Failed(io::Error::other(error)),
        };
    }
}
