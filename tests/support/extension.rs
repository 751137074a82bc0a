//! An extension's folder, put together file by file.

use std::fs;
use std::path::{Path, PathBuf};

use super::built;

/// What will be a folder among the extensions.
pub struct Extension {
    folder: String,
    files: Vec<(PathBuf, Content)>,
}

enum Content {
    Bytes(Vec<u8>),
    Copy(PathBuf),
}

impl Extension {
    /// A folder of this name, `directus-extension-…`, with nothing in it.
    pub fn empty(folder: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            files: Vec::new(),
        }
    }

    /// A whole extension from a library.
    pub fn of(folder: &str, library: PathBuf) -> Self {
        Self::empty(folder).manifest("").library(library)
    }

    /// A whole extension from a C source of `fixtures/`.
    pub fn c(folder: &str, source: &str, defines: &[&str]) -> Self {
        Self::of(folder, built::c_library(source, defines))
    }

    /// A whole extension from an example of this package.
    pub fn rust(folder: &str, example: &str) -> Self {
        Self::of(folder, built::library(example))
    }

    /// The good one, under the id `c-sample`.
    pub fn good() -> Self {
        Self::c("directus-extension-c-sample", "c_sample.c", &[])
            .manifest("[env]\noptional = [\"C_SAMPLE_UPSTREAM\"]")
    }

    /// The one that does what a request tells it to, well or badly, under the id `probe`.
    pub fn probe() -> Self {
        Self::c("directus-extension-probe", "probe.c", &[])
            .manifest("[env]\noptional = [\"UPSTREAM\", \"HOOKS_FILE\", \"DECLARED\"]\n[fetch]\nallow = [\"$UPSTREAM\"]")
    }

    /// Its manifest, in place of another one.
    pub fn manifest(self, text: &str) -> Self {
        self.file("extension.toml", text)
    }

    /// More lines at the end of its manifest.
    pub fn more_manifest(mut self, text: &str) -> Self {
        for (path, content) in &mut self.files {
            if path == Path::new("extension.toml")
                && let Content::Bytes(bytes) = content
            {
                bytes.extend_from_slice(format!("\n{text}\n").as_bytes());
            }
        }
        self
    }

    /// Its library, in `dist`.
    pub fn library(mut self, library: PathBuf) -> Self {
        let path = Path::new("dist").join(library.file_name().expect("a library has a name"));
        self.files.push((path, Content::Copy(library)));
        self
    }

    /// A file in its folder, in place of another one of that name.
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.retain(|(other, _)| other != Path::new(path));
        self.files
            .push((path.into(), Content::Bytes(content.into())));
        self
    }

    /// Writes it into the folder of all extensions.
    pub fn put(&self, extensions: &Path) -> PathBuf {
        let folder = extensions.join(&self.folder);
        fs::create_dir_all(&folder).expect("a folder");
        for (path, content) in &self.files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
            match content {
                Content::Bytes(bytes) => fs::write(&path, bytes).expect("a file"),
                // A copy and no link: nobody may change what another test has loaded.
                Content::Copy(from) => drop(fs::copy(from, &path).expect("a library")),
            }
        }
        folder
    }

    /// [`put`](Self::put), in place of all that was in its folder.
    pub fn put_alone(&self, extensions: &Path) -> PathBuf {
        // Err: there is none yet.
        let _ = fs::remove_dir_all(extensions.join(&self.folder));
        self.put(extensions)
    }

    /// Its folder's name.
    pub fn name(&self) -> &str {
        &self.folder
    }
}
