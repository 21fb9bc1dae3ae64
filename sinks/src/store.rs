//! The warehouse's object store: a local folder or `s3://`.
//!
//! Staged objects are written once under a name that carries their attempt's id, and are durable when [`Warehouse::stage`] returns.
//! Published files appear whole under their final name or not at all, so a reader that globs never sees half a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::{Digest, Sha256};

use crate::SinkError;

/// Where staged objects live, outside every directory that readers glob.
pub const STAGING: &str = "staging";

#[derive(Debug, Clone)]
pub struct Warehouse {
    store: Arc<dyn ObjectStore>,
    /// The folder, when the store is local: object_store does not fsync, so we do.
    local: Option<PathBuf>,
    address: String,
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
            let s3 = AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(|e| refuse(e.to_string()))?;
            let prefix = ObjectPath::parse(prefix).map_err(|e| refuse(e.to_string()))?;
            let store: Arc<dyn ObjectStore> =
                if prefix.as_ref().is_empty() { Arc::new(s3) } else { Arc::new(PrefixStore::new(s3, prefix)) };
            return Ok(Warehouse { store, local: None, address: address.trim_end_matches('/').to_owned() });
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
        Ok(Warehouse { store: Arc::new(store), address: folder.display().to_string(), local: Some(folder) })
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
        self.stage(&name, Bytes::from_static(b"probe")).await?;
        self.delete(&name).await
    }

    /// Writes an object that must not exist yet; durable on return.
    pub async fn stage(&self, name: &str, bytes: Bytes) -> Result<Staged, SinkError> {
        let staged = describe(name, &bytes);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(bytes);
        self.store.put_opts(&ObjectPath::from(name), payload, options).await.map_err(|source| SinkError::Store {
            doing: "stage",
            name: name.to_owned(),
            source,
        })?;
        self.sync(name)?;
        Ok(staged)
    }

    /// Writes a file under its final name, whole or not at all. Writing it again with the same bytes does no harm.
    pub async fn publish(&self, name: &str, bytes: Bytes) -> Result<Staged, SinkError> {
        let published = describe(name, &bytes);
        let failed = |source| SinkError::Store { doing: "publish", name: name.to_owned(), source };
        if self.local.is_some() {
            // A local put leaves a part beside its target when it is killed; so it is made in staging and moved.
            let part = format!("{STAGING}/publish-{}", uuid::Uuid::new_v4());
            self.stage(&part, bytes).await?;
            self.store.rename(&ObjectPath::from(part), &ObjectPath::from(name)).await.map_err(failed)?;
            self.sync(name)?;
        } else {
            self.store.put(&ObjectPath::from(name), PutPayload::from_bytes(bytes)).await.map_err(failed)?;
        }
        Ok(published)
    }

    pub async fn read(&self, name: &str) -> Result<Bytes, SinkError> {
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
