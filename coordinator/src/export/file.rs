use std::fs;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::ExportError;

/// A file that gets its name when it is finished; until then it has another one beside it, and dropping it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    overwrite: bool,
    file: BufWriter<NamedTempFile>,
}

impl NewFile {
    /// Begins a file; its folder is made if it does not exist.
    ///
    /// # Errors
    /// When it is there and is not to be replaced, or nothing can be written there.
    pub fn create(target: PathBuf, overwrite: bool) -> Result<Self, ExportError> {
        if target.exists() && !overwrite {
            return Err(ExportError::Exists(target));
        }
        let begin = || {
            let folder = target.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            // As any new file: what the umask leaves.
            tempfile::Builder::new().prefix(".").permissions(fs::Permissions::from_mode(0o666)).tempfile_in(folder)
        };
        let file = BufWriter::new(begin().map_err(ExportError::at(&target))?);
        Ok(Self { target, overwrite, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.target
    }

    /// What becomes of an error while it is written.
    pub(super) fn failed(&self) -> impl FnOnce(io::Error) -> ExportError + use<> {
        ExportError::at(&self.target)
    }

    /// Gives it its name, and tells it.
    ///
    /// # Errors
    /// When it could not be written to its end, or another one has got the name meanwhile.
    pub fn finish(self) -> Result<PathBuf, ExportError> {
        let Self { target, overwrite, file } = self;
        let file = file.into_inner().map_err(|error| ExportError::at(&target)(error.into_error()))?;
        file.as_file().sync_all().map_err(ExportError::at(&target))?;
        let named = if overwrite { file.persist(&target) } else { file.persist_noclobber(&target) };
        match named {
            Ok(_) => Ok(target),
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Err(ExportError::Exists(target)),
            Err(failed) => Err(ExportError::at(&target)(failed.error)),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
