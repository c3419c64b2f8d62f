//! Files that arrive whole, however often the connection breaks.

use std::path::Path;

use influence_proto::Digest;

use super::ArtifactError;
use super::half::Half;
use crate::client::{CallError, Client};
use crate::outbox::Backoff;

/// How files are moved: over which connection, and how long a coordinator that is away is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    client: Client,
    /// Spreads the retries of many workers.
    seed: u64,
    /// So often a transfer that does not move is tried.
    tries: u32,
}

/// Hears how many bytes have been moved.
pub(crate) type Moved<'a> = &'a (dyn Fn(u64) + Send + Sync);

impl Transfer {
    /// Over `client`, with `tries` tries that move nothing before it fails.
    pub(crate) const fn new(client: Client, seed: u64, tries: u32) -> Self {
        Self { client, seed, tries }
    }

    /// The same with another patience.
    pub(crate) fn with_tries(&self, tries: u32) -> Self {
        Self { tries, ..self.clone() }
    }

    /// Fetches an artifact to `target`, which is complete and verified when it has its name. Until then it is `partial`,
    /// from whose end a later call goes on, also in another process. What arrived damaged is fetched anew once.
    pub(crate) async fn download(
        &self,
        digest: Digest,
        partial: &Path,
        target: &Path,
        moved: Moved<'_>,
    ) -> Result<(), ArtifactError> {
        let Some(mut half) = Half::claim(partial, target).await? else { return Ok(()) };
        let mut backoff = Backoff::new(self.seed);
        let mut anew = false;
        loop {
            let before = half.bytes();
            let fetched = self.client.get_artifact(digest, before, |chunk| {
                half.append(chunk)?;
                moved(half.bytes());
                Ok(())
            });
            match fetched.await {
                Ok(()) => {
                    let found = half.digest().await?;
                    if found == digest {
                        return half.finish(target);
                    }
                    tracing::warn!(%digest, %found, "an artifact arrived damaged");
                    if anew {
                        half.remove()?;
                        return Err(ArtifactError::Damaged { digest, found });
                    }
                    half.clear()?;
                    anew = true;
                    continue;
                }
                // Of a damaged part there may be more here than there is of the whole.
                Err(CallError::Refused(reason)) if half.bytes() > 0 && !anew => {
                    tracing::warn!(%digest, %reason, "an artifact is fetched anew");
                    half.clear()?;
                    anew = true;
                    continue;
                }
                Err(source) if source.retryable() => {
                    if half.bytes() > before {
                        backoff.reset();
                    }
                    if backoff.tries() >= self.tries {
                        return Err(ArtifactError::Fetch { digest, source });
                    }
                    tracing::debug!(%digest, bytes = half.bytes(), reason = %source, "an artifact is asked for again");
                }
                Err(source) => return Err(ArtifactError::Fetch { digest, source }),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Uploads a file whose digest is known, from where an earlier upload of it stopped.
    pub(crate) async fn upload(&self, path: &Path, digest: Digest, moved: Moved<'_>) -> Result<(), ArtifactError> {
        let mut backoff = Backoff::new(self.seed);
        let (mut anew, mut most) = (false, 0);
        loop {
            let asked = self.client.stat_artifact(digest).await;
            let sent = match asked {
                Ok(stat) if stat.complete => return Ok(()),
                Ok(stat) => {
                    if stat.bytes > most {
                        backoff.reset();
                    }
                    most = stat.bytes;
                    self.client.put_artifact(path, digest, stat.bytes, moved).await
                }
                Err(error) => Err(error),
            };
            let failed = |source| ArtifactError::Store { path: path.to_owned(), source };
            match sent {
                Ok(()) => return Ok(()),
                // What was there was damaged, and is gone; or somebody else went on with it meanwhile.
                Err(CallError::Refused(reason)) if !anew => {
                    tracing::warn!(%digest, %reason, "an upload begins again");
                    anew = true;
                    continue;
                }
                Err(source) if source.retryable() && backoff.tries() < self.tries => {
                    tracing::debug!(%digest, reason = %source, "an upload is tried again");
                }
                Err(source) => return Err(failed(source)),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
