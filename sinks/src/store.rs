//! The warehouse's object store: a local folder or `s3://`.
//!
//! Staged objects are written once under a name that carries their attempt's id, and are durable when [`Warehouse::stage`] returns.
//! Published files appear whole under their final name or not at all, so a reader that globs never sees half a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use sha2::{Digest, Sha256};

use crate::SinkError;

/// How long the client of an object store tries a request again by itself.
const STORE_RETRIES_FOR: Duration = Duration::from_secs(10);

/// Where staged objects live, outside every directory that readers glob.
pub const STAGING: &str = "staging";

#[derive(Debug, Clone)]
pub struct Warehouse {
    store: Arc<dyn ObjectStore>,
    /// How long a passing trouble is outlived: a store that does not answer or refuses, a disk that is full.
    patience: Duration,
    /// The folder, when the store is local: object_store does not fsync, so we do.
    local: Option<PathBuf>,
    address: String,
}

/// What is left of a warehouse's patience with one request.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Waits before the next try, if the trouble may pass in time.
    async fn outlive(&mut self, error: SinkError) -> Result<(), SinkError> {
        if !error.may_pass() || Instant::now() + self.pause > self.until {
            return Err(error);
        }
        tracing::warn!(%error, "the warehouse refused; trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(5));
        Ok(())
    }
}

/// What was written: enough for the manifest to hold it to account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

impl Warehouse {
    /// Opens `s3://bucket/prefix`, `file:///folder` or a plain folder (created when it is missing). S3 takes its credentials,
    /// endpoint and region from the usual AWS_* environment variables.
    pub fn open(address: &str) -> Result<Warehouse, SinkError> {
        let refuse = |detail: String| SinkError::Address { url: address.to_owned(), detail };
        if let Some(rest) = address.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(refuse("the bucket is missing".into()));
            }
            // Short: what lasts is outlived by us, who say so.
            let retry = RetryConfig { retry_timeout: STORE_RETRIES_FOR, ..RetryConfig::default() };
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            let s3 = builder.build().map_err(|e| refuse(e.to_string()))?;
            let prefix = ObjectPath::parse(prefix).map_err(|e| refuse(e.to_string()))?;
            let store: Arc<dyn ObjectStore> =
                if prefix.as_ref().is_empty() { Arc::new(s3) } else { Arc::new(PrefixStore::new(s3, prefix)) };
            let address = address.trim_end_matches('/').to_owned();
            return Ok(Warehouse { store, patience: Duration::ZERO, local: None, address });
        }
        if let Some((scheme, _)) = address.split_once("://")
            && scheme != "file"
        {
            return Err(refuse(format!("the scheme {scheme}:// is not supported by this build")));
        }
        let folder = PathBuf::from(address.strip_prefix("file://").unwrap_or(address));
        let io = |doing: &'static str| {
            let path = folder.display().to_string();
            move |source| SinkError::Io { doing, path, source }
        };
        std::fs::create_dir_all(&folder).map_err(io("create the warehouse folder"))?;
        let folder = folder.canonicalize().map_err(io("open the warehouse folder"))?;
        // With clean-up, the folder of an attempt goes with its last object.
        let store =
            LocalFileSystem::new_with_prefix(&folder).map_err(|e| refuse(e.to_string()))?.with_automatic_cleanup(true);
        let address = folder.display().to_string();
        Ok(Warehouse { store: Arc::new(store), patience: Duration::ZERO, address, local: Some(folder) })
    }

    /// Tries what fails for a passing reason again for so long. Without it an error comes at once.
    pub fn with_patience(self, patience: Duration) -> Warehouse {
        Warehouse { patience, ..self }
    }

    /// The folder or `s3://` address, without a trailing slash.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn local(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// Fails early, with a hint, when nothing can be written here.
    pub async fn check_writable(&self) -> Result<(), SinkError> {
        let name = format!("{STAGING}/probe-{}", uuid::Uuid::new_v4());
        self.create(&name, Bytes::from_static(b"probe")).await?;
        self.delete(&name).await
    }

    /// Writes an object that must not exist yet; durable on return.
    pub async fn stage(&self, name: &str, bytes: Bytes) -> Result<Staged, SinkError> {
        let staged = describe(name, &bytes);
        let mut patience = self.patience();
        loop {
            let error = match self.create(name, bytes.clone()).await {
                Ok(()) => return Ok(staged),
                // The answer to a try was lost, ours or the client's own; names are never written twice, so these are our bytes.
                Err(error) if error.already_exists() => match self.holds(name, &staged.sha256).await {
                    Ok(true) => match self.sync(name) {
                        Ok(()) => return Ok(staged),
                        Err(error) => error,
                    },
                    Ok(false) => return Err(error),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            patience.outlive(error).await?;
        }
    }

    async fn create(&self, name: &str, bytes: Bytes) -> Result<(), SinkError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(bytes);
        let failed = |source| SinkError::Store { doing: "stage", name: name.to_owned(), source };
        self.store.put_opts(&ObjectPath::from(name), payload, options).await.map_err(failed)?;
        self.sync(name)
    }

    async fn holds(&self, name: &str, sha256: &str) -> Result<bool, SinkError> {
        Ok(hex(&Sha256::digest(&self.get(name).await?)) == sha256)
    }

    /// Writes a file under its final name, whole or not at all. Writing it again with the same bytes does no harm.
    pub async fn publish(&self, name: &str, bytes: Bytes) -> Result<Staged, SinkError> {
        self.publish_noting(name, bytes, || ()).await
    }

    /// The same; `staged` is called between making a local file in staging and moving it to its place.
    pub async fn publish_noting(
        &self,
        name: &str,
        bytes: Bytes,
        staged: impl Fn() + Send,
    ) -> Result<Staged, SinkError> {
        let published = describe(name, &bytes);
        let failed = |source| SinkError::Store { doing: "publish", name: name.to_owned(), source };
        let to = ObjectPath::from(name);
        let mut patience = self.patience();
        if self.local.is_none() {
            while let Err(error) = self.store.put(&to, PutPayload::from_bytes(bytes.clone())).await.map_err(failed) {
                patience.outlive(error).await?;
            }
            return Ok(published);
        }
        // A local put leaves a part beside its target when it is killed; so it is made in staging and moved.
        let part = format!("{STAGING}/publish-{}", uuid::Uuid::new_v4());
        self.stage(&part, bytes).await?;
        staged();
        let from = ObjectPath::from(part);
        while let Err(error) = self.store.rename(&from, &to).await.map_err(failed) {
            patience.outlive(error).await?;
        }
        while let Err(error) = self.sync(name) {
            patience.outlive(error).await?;
        }
        Ok(published)
    }

    pub async fn read(&self, name: &str) -> Result<Bytes, SinkError> {
        let mut patience = self.patience();
        loop {
            match self.get(name).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => patience.outlive(error).await?,
            }
        }
    }

    fn patience(&self) -> Patience {
        Patience { until: Instant::now() + self.patience, pause: Duration::from_millis(250) }
    }

    async fn get(&self, name: &str) -> Result<Bytes, SinkError> {
        let failed = |source| SinkError::Store { doing: "read", name: name.to_owned(), source };
        self.store.get(&ObjectPath::from(name)).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Reads an object and holds it against the manifest's checksum.
    pub async fn read_checked(&self, name: &str, sha256: &str) -> Result<Bytes, SinkError> {
        let bytes = self.read(name).await?;
        let found = hex(&Sha256::digest(&bytes));
        if found != sha256 {
            return Err(SinkError::Checksum { name: name.to_owned(), expected: sha256.to_owned(), found });
        }
        Ok(bytes)
    }

    /// Deletes; what is gone already is fine.
    pub async fn delete(&self, name: &str) -> Result<(), SinkError> {
        match self.store.delete(&ObjectPath::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(SinkError::Store { doing: "delete", name: name.to_owned(), source }),
        }
    }

    /// Every name below a folder, sorted.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, SinkError> {
        let prefix = ObjectPath::from(folder);
        let failed = |source| SinkError::Store { doing: "list", name: folder.to_owned(), source };
        let mut names: Vec<String> = self
            .store
            .list(Some(&prefix))
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .map_err(failed)?;
        names.sort_unstable();
        Ok(names)
    }

    /// Names directly in staging that are older than `age`: probes and parts of publications that a killed worker left behind.
    pub async fn old_parts(&self, age: Duration) -> Result<Vec<String>, SinkError> {
        let failed = |source| SinkError::Store { doing: "list", name: STAGING.to_owned(), source };
        let staging = ObjectPath::from(STAGING);
        let listed = self.store.list_with_delimiter(Some(&staging)).await.map_err(failed)?;
        let now = SystemTime::now();
        let is_old = |modified: SystemTime| now.duration_since(modified).is_ok_and(|passed| passed > age);
        let old = listed.objects.into_iter().filter(|object| is_old(object.last_modified.into()));
        Ok(old.map(|object| object.location.to_string()).collect())
    }

    /// Half-written local files in staging: a writer that was killed leaves `NAME#1`, and the store's own listing hides it. Each with
    /// its age.
    pub fn halves(&self) -> Result<Vec<(String, Duration)>, SinkError> {
        let Some(root) = &self.local else { return Ok(Vec::new()) };
        let mut halves = Vec::new();
        let mut folders = vec![root.join(STAGING)];
        while let Some(folder) = folders.pop() {
            // Gone meanwhile, with its last object, is fine.
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                let path = entry.path();
                if meta.is_dir() {
                    folders.push(path);
                } else if let Some((_, number)) = path.to_string_lossy().rsplit_once('#')
                    && number.bytes().all(|byte| byte.is_ascii_digit())
                    && let Ok(name) = path.strip_prefix(root)
                {
                    let age = meta.modified().ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
                    halves.push((name.display().to_string(), age));
                }
            }
        }
        Ok(halves)
    }

    /// Deletes one of [`Self::halves`], and its folder with it when that is empty.
    pub fn delete_half(&self, name: &str) -> Result<(), SinkError> {
        let Some(root) = &self.local else { return Ok(()) };
        let path = root.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(SinkError::Io { doing: "delete", path: path.display().to_string(), source });
            }
            _ => {}
        }
        if let Some(folder) = path.parent().filter(|folder| **folder != root.join(STAGING)) {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Makes a local file and the entries that lead to it survive a power cut.
    fn sync(&self, name: &str) -> Result<(), SinkError> {
        let Some(root) = &self.local else { return Ok(()) };
        let mut path = root.join(name);
        loop {
            let synced = std::fs::File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(|source| SinkError::Io { doing: "sync", path: path.display().to_string(), source })?;
            if path == *root || !path.pop() {
                return Ok(());
            }
        }
    }
}

fn describe(name: &str, bytes: &Bytes) -> Staged {
    Staged { name: name.to_owned(), bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
