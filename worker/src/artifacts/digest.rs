use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use influence_proto::Digest;
use sha2::{Digest as _, Sha256};

/// The digest of a file, read piecewise.
pub(crate) fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..read]);
    }
}
